"""Is a score true? Retrain without the images, and look. Do estimators agree, and which of them should be believed?"""

from influence_core.evaluation.agreement import Agreement, agreement
from influence_core.evaluation.brittleness import Brittleness, brittleness
from influence_core.evaluation.compare import compare
from influence_core.evaluation.comparison import Comparison
from influence_core.evaluation.confusions import confusions
from influence_core.evaluation.group_effects import GroupEffects, group_effects
from influence_core.evaluation.groups import Groups, draw_groups
from influence_core.evaluation.leave_one_out import leave_one_out
from influence_core.evaluation.linear_datamodelling import LDS, combine, lds
from influence_core.evaluation.rank_stability import RankStability, rank_stability
from influence_core.evaluation.retraining import Retrain, Retrained, draw_subsets, retrain_subsets
from influence_core.evaluation.sanity import SanityChecks, sanity_checks

__all__ = [
    "LDS",
    "Agreement",
    "Brittleness",
    "Comparison",
    "GroupEffects",
    "Groups",
    "RankStability",
    "Retrain",
    "Retrained",
    "SanityChecks",
    "agreement",
    "brittleness",
    "combine",
    "compare",
    "confusions",
    "draw_groups",
    "draw_subsets",
    "group_effects",
    "lds",
    "leave_one_out",
    "rank_stability",
    "retrain_subsets",
    "sanity_checks",
]
