"""An inverse curvature by a truncated Neumann series, as LiSSA takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from influence_core.curvature.inverses.base import InverseCurvature, Solved, check_count, check_solve
from influence_core.curvature.inverses.streamed import Streamed, absolute_damping, check_preconditions
from influence_core.curvature.lanczos import largest_eigenvalue
from influence_core.curvature.neumann import neumann
from influence_core.curvature.operators import CurvatureName, Operator
from influence_core.curvature.solution import Product
from influence_core.curvature.vectors import flatten, unflatten
from influence_core.gradients import Data
from influence_core.losses import Loss

POWER_STEPS = 20
"""Products that find the largest eigenvalue of a preconditioned matrix."""

HEADROOM = 1.2
"""The scale of the series, as a multiple of the largest eigenvalue that power iteration found."""


@dataclass(frozen=True)
class NeumannSeries(Streamed):
    """Sums ``steps`` terms of the series with a scale above the largest eigenvalue; see ``curvature.neumann``.

    Attributes:
        tolerance: on the relative residual, below which the series stops early.
        steps: J.
        scale: s.
        preconditioner: an approximate inverse, symmetric and positive definite; its damping is its own.
    """

    name: ClassVar[str] = "lissa"

    tolerance: float
    steps: int
    scale: float
    preconditioner: InverseCurvature | None = None

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
        preconditioner: InverseCurvature | None = None,
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
            preconditioner: an approximate inverse, or ``None``.

        Returns:
            The inverse.

        Raises:
            InvalidInput: if a setting is out of range, or the preconditioner is none.
        """
        check_solve(damping, tolerance)
        check_count("steps", steps)
        check_preconditions(preconditioner)
        absolute = absolute_damping(damping, weight_decay, model, loss, data)
        series = cls(model, loss, data, curvature, weight_decay, absolute, tolerance, steps, 0.0, preconditioner)
        matrix = series.operator()
        first = matrix.parameters[0]
        if preconditioner is None:
            largest = largest_eigenvalue(matrix, matrix.size, like=first, seed=seed)
        else:
            largest = _largest(series.preconditioned(matrix.shapes), matrix, first, seed)
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
        found = neumann(
            product,
            rows,
            scale=self.scale,
            tolerance=self.tolerance,
            max_iterations=self.steps,
            preconditioner=self.preconditioned(product.shapes),
        )
        facts = {
            "residual": float(found.residuals.max()),
            "iterations": found.iterations,
            "converged": bool(found.converged.all()),
        }
        return Solved(unflatten(found.x, product.shapes), facts)

    def damped(self, damping: float) -> Self:
        """The same matrix with another damping, absolute, and a scale that does for it."""
        more = damping - self.damping
        if self.preconditioner is not None:  # whose eigenvalues are not moved by as much: too large a scale is safe
            return replace(self, damping=damping, scale=self.scale * max(1.0, damping / max(self.damping, 1e-30)))
        return replace(self, damping=damping, scale=self.scale + HEADROOM * more)

    def facts(self) -> dict[str, Any]:
        """Damping, weight decay and the scale of the series."""
        return super().facts() | {"scale": self.scale}


def _largest(precondition: Product | None, matrix: Operator, like: Tensor, seed: int) -> float:
    """Largest eigenvalue of M A by power iteration, which M makes symmetric in its own inner product."""
    assert precondition is not None
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(1, matrix.size, generator=generator, dtype=torch.float64).to(like)
    found = 0.0
    for _ in range(POWER_STEPS):
        vector = precondition(matrix(vector / torch.linalg.vector_norm(vector)))
        found = float(torch.linalg.vector_norm(vector))
    return found
