"""What influence functions share that solve anew for every query, by products with the curvature of all data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from influence_core.curvature import CurvatureName
from influence_core.curvature.inverses import (
    InverseCurvature,
    InverseSpec,
    check_count,
    check_preconditioner,
    check_solve,
)
from influence_core.estimators.influence_functions.base import InfluenceFunction
from influence_core.estimators.work import Work, diagonal_measured, multiplied
from influence_core.study import Study

TYPICAL_STEPS = 90
"""Of conjugate gradients on the bundled digits, with the default damping, down to a residual of 1e-4."""


@dataclass
class Solving(InfluenceFunction):
    """Solves with products over all training images, so that nothing depends on batches."""

    solves_each_query: ClassVar[bool] = True

    damping: float = 0.1
    curvature: CurvatureName = "ggn"
    tolerance: float = 1e-4

    def _check_parameters(self) -> None:
        check_solve(self.damping, self.tolerance)

    def _fit_work(self, study: Study) -> Work | None:
        return diagonal_measured(study)


@dataclass
class ByConjugateGradients(Solving):
    """Solves by conjugate gradients, plain or preconditioned."""

    max_iterations: int = 500
    preconditioner: str | InverseSpec | None = None

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_count("max_iterations", self.max_iterations)
        check_preconditioner(self.preconditioner)

    def _curved(self, study: Study) -> nn.Module:
        """The model whose curvature is taken."""
        return study.model

    def _fit_work(self, study: Study) -> Work | None:
        return None if self.preconditioner is not None else super()._fit_work(study)

    def _solve_work(self, study: Study, vectors: int) -> Work:
        return multiplied(len(study.train), min(TYPICAL_STEPS, self.max_iterations), vectors)

    def _fit_inverse(self, study: Study) -> InverseCurvature:
        return InverseSpec("conjugategradient").fit(
            self._curved(study),
            study.loss,
            study.train,
            damping=self.damping,
            weight_decay=study.weight_decay,
            curvature=self.curvature,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            preconditioner=self.preconditioner,
        )
