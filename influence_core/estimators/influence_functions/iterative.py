"""What influence functions share that solve anew for every query, by products with the curvature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influence_core.curvature import CurvatureName
from influence_core.curvature.inverses import check_solve
from influence_core.estimators.answers import Answer
from influence_core.estimators.influence_functions.base import InfluenceFunction


@dataclass
class Iterative(InfluenceFunction):
    """Solves with products over all training images, so that nothing depends on batches.

    Mislabel scores are minus the influence on the mean loss of the validation set: one solve, where self-influence
    would take N.
    """

    solves_each_query: ClassVar[bool] = True

    damping: float = 0.1
    curvature: CurvatureName = "ggn"
    tolerance: float = 1e-4

    def _check_parameters(self) -> None:
        check_solve(self.damping, self.tolerance)

    def _self_influence(self) -> Answer:
        return self._self_by_solving()

    def _mislabel_scores(self) -> Answer:
        return self._against_validation()
