"""An inverse curvature by a truncated Neumann series, as LiSSA takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from influence_core.curvature.inverses.base import Solved, check_count, check_solve
from influence_core.curvature.inverses.streamed import Streamed, absolute_damping
from influence_core.curvature.lanczos import largest_eigenvalue
from influence_core.curvature.neumann import neumann
from influence_core.curvature.operators import CurvatureName
from influence_core.curvature.vectors import flatten, unflatten
from influence_core.gradients import Data
from influence_core.losses import Loss

HEADROOM = 1.2
"""The scale of the series, as a multiple of the largest eigenvalue that power iteration found."""


@dataclass(frozen=True)
class NeumannSeries(Streamed):
    """Sums ``steps`` terms of the series with a scale above the largest eigenvalue; see ``curvature.neumann``.

    Attributes:
        tolerance: on the relative residual, below which the series stops early.
        steps: J.
        scale: s.
    """

    name: ClassVar[str] = "lissa"

    tolerance: float
    steps: int
    scale: float

    @classmethod
    def fit(
        cls,
        model: nn.Module,
        loss: Loss,
        data: Data,
        *,
        damping: float = 0.1,
        weight_decay: float = 0.0,
        curvature: CurvatureName = "ggn",
        tolerance: float = 1e-4,
        steps: int = 100,
        seed: int = 0,
    ) -> Self:
        """Settle damping and scale.

        Args:
            model: in eval mode.
            loss: one loss per sample.
            data: N samples.
            damping: relative to the mean diagonal of the Gauss-Newton matrix.
            weight_decay: lambda.
            curvature: "ggn" or "hessian".
            tolerance: on the relative residual.
            steps: J.
            seed: of the power iteration's start.

        Returns:
            The inverse.
        """
        check_solve(damping, tolerance)
        check_count("steps", steps)
        absolute = absolute_damping(damping, weight_decay, model, loss, data)
        series = cls(model, loss, data, curvature, weight_decay, absolute, tolerance, steps, 0.0)
        matrix = series.operator()
        largest = largest_eigenvalue(matrix, matrix.size, like=matrix.parameters[0], seed=seed)
        return replace(series, scale=HEADROOM * largest)

    def apply(self, vectors: Mapping[str, Tensor]) -> Solved:
        """Sum the series for R right-hand sides.

        Args:
            vectors: parameter name -> ``[R, *shape]``.

        Returns:
            The sums so far, with ``residual``, ``iterations`` and ``converged``; slowness is no error.
        """
        product = self.operator()
        rows = flatten(vectors, product.shapes)
        found = neumann(product, rows, scale=self.scale, tolerance=self.tolerance, max_iterations=self.steps)
        facts = {
            "residual": float(found.residuals.max()),
            "iterations": found.iterations,
            "converged": bool(found.converged.all()),
        }
        return Solved(unflatten(found.x, product.shapes), facts)

    def facts(self) -> dict[str, Any]:
        """Damping, weight decay and the scale of the series."""
        return super().facts() | {"scale": self.scale}
