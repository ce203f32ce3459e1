"""What influence functions share that solve anew for every query, by products with the curvature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influence_core.curvature import CurvatureName
from influence_core.curvature.inverses import check_damping
from influence_core.errors import InvalidInput
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
        check_damping(self.damping)
        if not self.tolerance >= 0:
            raise InvalidInput(f"tolerance is {self.tolerance}; it is a relative residual, so 0 or more")

    def _self_influence(self) -> Answer:
        return self._self_by_solving()

    def _mislabel_scores(self) -> Answer:
        return self._against_validation()


def check_count(name: str, value: int) -> None:
    """Refuse a number of steps below 1.

    Args:
        name: of the hyper-parameter.
        value: to check.

    Raises:
        InvalidInput: if it is below 1.
    """
    if value < 1:
        raise InvalidInput(f"{name} is {value}; at least 1 is needed")
