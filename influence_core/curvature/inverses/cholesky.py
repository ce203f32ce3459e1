"""An inverse curvature from Cholesky's factor of the matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from influence_core.curvature.inverses.base import InverseCurvature, Solved
from influence_core.curvature.vectors import Shapes, flatten, unflatten


@dataclass(frozen=True)
class CholeskyInverse(InverseCurvature):
    """Solves with a factor that is there already, in float64.

    Attributes:
        factor: lower triangular, float64 ``[P, P]``.
        shapes: parameter name -> shape, in the order of a row.
        damping: delta, absolute.
        weight_decay: lambda.
    """

    name: ClassVar[str] = "cholesky"

    factor: Tensor
    shapes: Shapes
    damping: float
    weight_decay: float

    def apply(self, vectors: Mapping[str, Tensor]) -> Solved:
        """Solve twice with the factor."""
        rows = flatten(vectors, self.shapes)
        found = torch.cholesky_solve(rows.T.double(), self.factor).T.to(rows)
        return Solved(unflatten(found, self.shapes), {"residual": 0.0})

    def facts(self) -> dict[str, Any]:
        """Damping and weight decay."""
        return {"damping": self.damping, "weight_decay": self.weight_decay}
