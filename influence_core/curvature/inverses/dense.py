"""An inverse curvature from the decomposed matrix, for small models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from influence_core.curvature.inverses.base import InverseCurvature, Solved, check_damping
from influence_core.curvature.inverses.kronecker import ROUNDING, inverted
from influence_core.curvature.operators import CurvatureName, mean_diagonal, operator
from influence_core.curvature.vectors import Shapes, flatten, unflatten
from influence_core.errors import InvalidInput, NotSupported
from influence_core.gradients import Data
from influence_core.losses import Loss

LARGEST = 4000
"""Most parameters for which a dense matrix is decomposed: 128 MiB in float64, and less than a minute on one core."""


@dataclass(frozen=True)
class DenseInverse(InverseCurvature):
    """The matrix itself, decomposed in float64: exact to rounding.

    Attributes:
        vectors: eigenvectors in columns, float64 ``[P, P]``.
        values: eigenvalues of the inverse, float64 [P].
        shapes: parameter name -> shape, in the order of a row.
        damping: delta, absolute.
        weight_decay: lambda.
    """

    name: ClassVar[str] = "dense"
    preconditions: ClassVar[bool] = True
    has_root: ClassVar[bool] = True

    vectors: Tensor
    values: Tensor
    shapes: Shapes
    damping: float
    weight_decay: float

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
    ) -> Self:
        """P products with the curvature, and one decomposition.

        Args:
            model: in eval mode, of up to ``LARGEST`` parameters.
            loss: one loss per sample.
            data: N samples.
            damping: relative to the mean diagonal of the Gauss-Newton matrix.
            weight_decay: lambda.
            curvature: "ggn" (positive semi-definite) or "hessian".

        Returns:
            The inverse.

        Raises:
            NotSupported: if the model is larger.
            InvalidInput: if a Hessian is not positive definite with what is added.
        """
        check_damping(damping, weight_decay)
        size = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if size > LARGEST:
            raise NotSupported(
                f"a dense curvature decomposes a matrix of {size:,} x {size:,}, for models of up to {LARGEST:,} "
                "parameters: use a Kronecker-factored or diagonal one, or ConjugateGradient for influence with the "
                "whole matrix"
            )
        product = operator(curvature, model, loss, data).kept()
        whole = product.dense().double()
        values, vectors = torch.linalg.eigh((whole + whole.T) / 2)
        absolute = damping * mean_diagonal(model, loss, data) if damping > 0 else 0.0
        shift = absolute + weight_decay
        if curvature == "ggn":
            values = values.clamp_min(0)  # what is below is rounding
        elif float(values[0]) + shift <= 0:
            mean = mean_diagonal(model, loss, data)
            raise InvalidInput(
                f"the Hessian's smallest eigenvalue is {float(values[0]):.3g} and damping and weight decay add "
                f"{shift:.3g}, so that it is no inverse of a covariance: raise damping above "
                f"{(-float(values[0]) - weight_decay) / mean:.3g}, or use curvature='ggn'"
            )
        return cls(vectors.contiguous(), inverted(values, shift, ROUNDING), product.shapes, absolute, weight_decay)

    def apply(self, vectors: Mapping[str, Tensor]) -> Solved:
        """Multiply in float64."""
        rows = flatten(vectors, self.shapes)
        found = (rows.to(self.vectors) @ self.vectors * self.values) @ self.vectors.T
        return Solved(unflatten(found.to(rows), self.shapes), {"residual": 0.0})

    def facts(self) -> dict[str, Any]:
        """Damping and weight decay."""
        return {"damping": self.damping, "weight_decay": self.weight_decay}

    def root(self) -> DenseInverse:
        """The symmetric root."""
        return DenseInverse(self.vectors, self.values.sqrt(), self.shapes, self.damping, self.weight_decay)
