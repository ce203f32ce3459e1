"""Two-sided projections: the outputs' side and the inputs' side of each weight separately."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from influence_core.gradients.block import SampleGradients
from influence_core.gradients.projections.base import Projection


class FactoredProjection(Projection):
    """``G -> L G R'`` for random signs L ``[k1, C]`` and R ``[k2, K]``, k1 k2 = k, as in LoGra.

    Output gradients and inputs are projected before they are multiplied, so that the gradient is never formed: little
    memory, but less accurate inner products than ``SketchProjection`` at the same k. Vectors (biases, scales) have a
    dense projection.
    """

    def __init__(self, dim: int, seed: int = 0) -> None:
        """Take k, split into the most equal factors, and the seed."""
        super().__init__(dim, seed)
        self.rows = max(d for d in range(1, math.isqrt(dim) + 1) if dim % d == 0)
        self.columns = dim // self.rows
        self._kept: dict[tuple[str, torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def add(self, gradients: SampleGradients, features: Tensor) -> None:
        """Project both factors where there are such, else the matrix from both sides."""
        left, right = self._sides(gradients, features)
        if left.numel() == 0:
            for some, rows in gradients.chunks():
                features[some] += rows @ right.T
            return
        factors = gradients.form.projected_factors(left, right) if gradients.mask is None else None
        if factors is not None:
            features += torch.bmm(factors[0].transpose(1, 2), factors[1]).flatten(1)
            return
        for some, rows in gradients.chunks():
            matrices = gradients.layout.unflatten(rows).reshape(len(rows), left.shape[1], -1)
            features[some] += (left @ (matrices @ right.T)).flatten(1)

    def _sides(self, gradients: SampleGradients, like: Tensor) -> tuple[Tensor, Tensor]:
        """L and R; for a vector L is empty and R ``[k, P]``."""
        shape = gradients.layout.shape
        key = (f"{gradients.name}/{shape}", like.device, like.dtype)
        if key not in self._kept:
            if len(shape) < 2:
                left, right = torch.empty(0), self._matrix(self.dim, math.prod(shape), gradients.name, "vector")
            else:
                left = self._matrix(self.rows, shape[0], gradients.name, "outputs")
                right = self._matrix(self.columns, math.prod(shape[1:]), gradients.name, "inputs")
            self._kept[key] = (left.to(like), right.to(like))
        return self._kept[key]

    def _matrix(self, rows: int, columns: int, name: str, purpose: str) -> Tensor:
        signs = self._signs(rows * columns, name, purpose).to(torch.float64)
        return signs.mul_(rows**-0.5).reshape(rows, columns)
