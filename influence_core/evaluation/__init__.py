"""Is a score true? Retrain without the images, and look. Do estimators agree, and where is the model wrong?"""

from influence_core.evaluation.agreement import Agreement, agreement
from influence_core.evaluation.brittleness import Brittleness, brittleness
from influence_core.evaluation.confusions import confusions
from influence_core.evaluation.group_effects import GroupEffects, group_effects
from influence_core.evaluation.groups import Groups, draw_groups
from influence_core.evaluation.leave_one_out import leave_one_out
from influence_core.evaluation.linear_datamodelling import LDS, combine, lds
from influence_core.evaluation.retraining import Retrain, Retrained, draw_subsets, retrain_subsets

__all__ = [
    "LDS",
    "Agreement",
    "Brittleness",
    "GroupEffects",
    "Groups",
    "Retrain",
    "Retrained",
    "agreement",
    "brittleness",
    "combine",
    "confusions",
    "draw_groups",
    "draw_subsets",
    "group_effects",
    "lds",
    "leave_one_out",
    "retrain_subsets",
]
