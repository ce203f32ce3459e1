"""Is a score true? Retrain without the images, and look."""

from influence_core.evaluation.leave_one_out import leave_one_out
from influence_core.evaluation.linear_datamodelling import LDS, combine, lds
from influence_core.evaluation.retraining import Retrain, Retrained, draw_subsets, retrain_subsets

__all__ = ["LDS", "Retrain", "Retrained", "combine", "draw_subsets", "lds", "leave_one_out", "retrain_subsets"]
