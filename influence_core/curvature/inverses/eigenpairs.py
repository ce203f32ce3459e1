"""An inverse curvature in the space of the leading eigenvectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from influence_core.curvature.inverses.base import InverseCurvature, Solved, check_damping
from influence_core.curvature.lanczos import lanczos
from influence_core.curvature.operators import CurvatureName, mean_diagonal, operator
from influence_core.curvature.vectors import Vectors, flatten, unflatten
from influence_core.errors import InvalidInput
from influence_core.gradients import Labelled, labelled
from influence_core.losses import Loss


@dataclass(frozen=True)
class LeadingEigenpairs(InverseCurvature):
    r""":math:`\sum_r u_r u_r^\top / (\mu_r + \lambda + \delta)` over the largest eigenvalues; zero outside their space.

    Attributes:
        basis: the eigenvectors, parameter name -> ``[R, *shape]``.
        values: the eigenvalues, [R].
        error: largest residual of an eigenpair, relative to its eigenvalue.
        damping: :math:`\delta`, absolute.
        weight_decay: :math:`\lambda`.
    """

    name: ClassVar[str] = "arnoldi"

    basis: Vectors
    values: Tensor
    error: float
    damping: float
    weight_decay: float

    @classmethod
    def fit(
        cls,
        model: nn.Module,
        loss: Loss,
        data: Labelled,
        *,
        damping: float = 0.1,
        weight_decay: float = 0.0,
        curvature: CurvatureName = "ggn",
        rank: int = 20,
        steps: int = 100,
        samples: int = 4096,
        seed: int = 0,
    ) -> Self:
        """Lanczos' method with one matrix, orthogonalised twice.

        Args:
            model: in eval mode.
            loss: one loss per sample.
            data: N samples, with ``subset(ids)`` where there are more than ``samples``.
            damping: relative to the mean diagonal of the Gauss-Newton matrix.
            weight_decay: lambda.
            curvature: "ggn" or "hessian"; of a Hessian the positive eigenvalues are kept.
            rank: R, at most ``steps``.
            steps: dimension of the Krylov space.
            samples: the curvature is that of so many samples, spread evenly, or of all if there are fewer.
            seed: of the first vector.

        Returns:
            The inverse.

        Raises:
            InvalidInput: if there is no positive eigenvalue.
        """
        check_damping(damping, weight_decay)
        if not 1 <= rank <= steps or samples < 1:
            raise InvalidInput(
                f"rank={rank}, steps={steps}, samples={samples}: at least 1 of each, and no more eigenvectors than "
                "steps"
            )
        data = labelled(data)
        size = len(data)
        ids = torch.arange(min(size, samples)) * size // min(size, samples)
        matrix = operator(curvature, model, loss, data if len(ids) == size else data.subset(ids)).kept()
        pairs = lanczos(matrix, matrix.size, steps, like=matrix.parameters[0], seed=seed)
        keep = pairs.values[:rank] > 1e-6 * pairs.values[0].abs()
        if not bool(keep.any()):
            raise InvalidInput("the curvature has no positive eigenvalue at these weights: use curvature='ggn'")
        basis = unflatten(pairs.vectors[:rank][keep], matrix.shapes)
        values = pairs.values[:rank][keep]
        error = float((pairs.residuals[:rank][keep] / values).max())
        return cls(basis, values, error, damping * mean_diagonal(model, loss, data) if damping else 0.0, weight_decay)

    def inverse_values(self) -> Tensor:
        """Eigenvalues of the inverse, [R]."""
        return 1.0 / (self.values + (self.weight_decay + self.damping))

    def apply(self, vectors: Mapping[str, Tensor]) -> Solved:
        """Into the space, divide, and back."""
        shapes = {name: tuple(v.shape[1:]) for name, v in self.basis.items()}
        basis = flatten(self.basis, shapes)
        inside = flatten(vectors, shapes) @ basis.T
        inside = inside * self.inverse_values().to(inside)
        return Solved(unflatten(inside @ basis, shapes), {"residual": self.error})

    def facts(self) -> dict[str, Any]:
        """Damping, weight decay, how many eigenpairs there are and how far they are from being some."""
        return {
            "damping": self.damping,
            "weight_decay": self.weight_decay,
            "residual": self.error,
            "rank": len(self.values),
        }
