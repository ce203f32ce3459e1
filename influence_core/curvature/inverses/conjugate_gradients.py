"""An inverse curvature by conjugate gradients, plain or preconditioned by another inverse."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from influence_core.curvature.conjugate import conjugate_gradient
from influence_core.curvature.inverses.base import InverseCurvature, Solved, check_count, check_solve
from influence_core.curvature.inverses.nystrom import NystromInverse
from influence_core.curvature.inverses.streamed import Streamed, absolute_damping, check_preconditions
from influence_core.curvature.operators import CurvatureName
from influence_core.curvature.vectors import flatten, unflatten
from influence_core.errors import InvalidInput
from influence_core.gradients import Data
from influence_core.losses import Loss


@dataclass(frozen=True)
class ConjugateGradients(Streamed):
    """Solves to a tolerance on the residual (Hestenes and Stiefel 1952); see ``curvature.conjugate_gradient``.

    Attributes:
        tolerance: on the residual relative to the right-hand side.
        max_iterations: products for each block of right-hand sides; a warning says if they were not enough.
        preconditioner: an approximate inverse, symmetric and positive definite; its damping is its own.
        steps: after so many products a solve stops on purpose, whatever the residual; ``None`` for the tolerance alone.
    """

    name: ClassVar[str] = "conjugategradient"

    tolerance: float
    max_iterations: int
    preconditioner: InverseCurvature | None = None
    steps: int | None = None

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
        max_iterations: int = 500,
        preconditioner: InverseCurvature | None = None,
        steps: int | None = None,
    ) -> Self:
        """Settle the damping; all else is done for each right-hand side.

        Args:
            model: in eval mode.
            loss: one loss per sample.
            data: N samples.
            damping: relative to the mean diagonal of the Gauss-Newton matrix.
            weight_decay: lambda.
            curvature: "ggn" or "hessian".
            tolerance: on the relative residual.
            max_iterations: products.
            preconditioner: an approximate inverse, or ``None``.
            steps: after so many products a solve stops on purpose.

        Returns:
            The inverse.

        Raises:
            InvalidInput: if a setting is out of range, or the preconditioner is none.
        """
        check_solve(damping, tolerance)
        check_count("max_iterations", max_iterations)
        if steps is not None:
            check_count("steps", steps)
        check_preconditions(preconditioner)
        absolute = absolute_damping(damping, weight_decay, model, loss, data)
        return cls(
            model, loss, data, curvature, weight_decay, absolute, tolerance, max_iterations, preconditioner, steps
        )

    def apply(self, vectors: Mapping[str, Tensor]) -> Solved:
        """Solve for R right-hand sides.

        Args:
            vectors: parameter name -> ``[R, *shape]``.

        Returns:
            The solutions, with ``residual``, ``iterations`` and ``converged``.

        Raises:
            InvalidInput: if the matrix curves down along a direction of the search.
        """
        product = self.operator()
        found = conjugate_gradient(
            product,
            flatten(vectors, product.shapes),
            tolerance=self.tolerance,
            max_iterations=min(self.max_iterations, self.steps or self.max_iterations),
            preconditioner=self.preconditioned(product.shapes),
        )
        if bool(found.negative_curvature.any()):
            raise InvalidInput(
                f"the {self.curvature} plus damping {self.damping:.3g} curves down along a direction of the search, "
                "so that it has no minimum: raise the damping, or use curvature='ggn'"
            )
        facts: dict[str, Any] = {
            "residual": float(found.residuals.max()),
            "iterations": found.iterations,
            "converged": bool(found.converged.all()),
        }
        early = self.steps is not None and found.iterations >= self.steps
        if not facts["converged"] and not early:
            facts["warnings"] = [not_converged("conjugate gradients", found.iterations, facts, self.tolerance)]
            warnings.warn(facts["warnings"][0], stacklevel=2)
        return Solved(unflatten(found.x, product.shapes), facts)

    def damped(self, damping: float) -> Self:
        """The same matrix with another damping, absolute, which a preconditioner that follows takes as well."""
        prior = self.preconditioner
        if isinstance(prior, NystromInverse) and prior.damping == self.damping:
            prior = prior.damped(damping)
        return replace(self, damping=damping, preconditioner=prior)

    def facts(self) -> dict[str, Any]:
        """Damping, weight decay, and what the preconditioner has of these."""
        prior = self.preconditioner
        return super().facts() | ({} if prior is None else {"preconditioner": {"name": prior.name} | prior.facts()})


def not_converged(what: str, iterations: int, facts: Mapping[str, Any], tolerance: float) -> str:
    """The sentence for a solve that was cut short.

    Args:
        what: the solver.
        iterations: products it made.
        facts: with the ``residual`` it reached.
        tolerance: the residual that was asked for.

    Returns:
        The sentence, with what to do.
    """
    return (
        f"{what} stopped after {iterations} products at a relative residual of {facts['residual']:.2g}, above the "
        f"tolerance of {tolerance:.2g}: raise max_iterations or damping, or use a model in float64"
    )
