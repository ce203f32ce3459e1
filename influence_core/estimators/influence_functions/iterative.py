"""What ConjugateGradient and LiSSA share beside the solving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influence_core.estimators.answers import Answer
from influence_core.estimators.influence_functions.solving import Solving


@dataclass
class Iterative(Solving):
    """Mislabel scores are minus the influence on the mean loss of the validation set.

    That is one solve, where self-influence would take N.
    """

    by_rows: ClassVar[frozenset[str]] = frozenset({"influence", "self_influence", "mislabel_scores"})
    asks_validation: ClassVar[bool] = True

    def _self_influence(self) -> Answer:
        return self._self_by_solving()

    def _mislabel_scores(self) -> Answer:
        return self._against_validation()
