"""Dense random projections: the reference that cheaper ones are compared with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from influence_core.gradients.block import SampleGradients
from influence_core.gradients.projections.base import Projection

_PIECE = 2**14
"""Matrices are drawn in pieces of this many parameter entries, each from its own seed, so that none need be kept."""

_KEEP_BYTES = 2**28


class DenseProjection(Projection):
    """A matrix of independent entries, Gaussian or signs, scaled by ``1 / sqrt(k)`` (Johnson and Lindenstrauss).

    Costs P k multiply-adds a sample, and P k numbers where the matrix is kept: for reference and for small models.
    """

    def __init__(self, dim: int, seed: int = 0, kind: Literal["gaussian", "rademacher"] = "rademacher") -> None:
        """Take k, the seed and the entries' distribution.

        Raises:
            ValueError: Unknown kind, or k is not positive.
        """
        super().__init__(dim, seed)
        if kind not in ("gaussian", "rademacher"):
            raise ValueError(f'kind is {kind!r}; expected "gaussian" or "rademacher"')
        self.kind = kind
        self._kept: dict[tuple[str, int, torch.device, torch.dtype], Tensor] = {}
        self._kept_bytes = 0

    def add(self, gradients: SampleGradients, features: Tensor) -> None:
        """One matrix product per piece."""
        for some, rows in gradients.chunks():
            plain = gradients.layout.unflatten(rows).reshape(len(rows), -1)
            for index, piece in enumerate(plain.split(_PIECE, dim=1)):
                features[some] += piece @ self._matrix(gradients.name, index, piece)

    def _matrix(self, name: str, index: int, like: Tensor) -> Tensor:
        """``[p, k]`` for one piece of one parameter."""
        size = like.shape[1]
        key = (f"{name}/{index}/{size}", size, like.device, like.dtype)
        if key in self._kept:
            return self._kept[key]
        generator = self._generator(f"{name}/{index}", self.kind)
        if self.kind == "gaussian":
            matrix = torch.randn(size, self.dim, generator=generator, dtype=torch.float64)
        else:
            matrix = (
                torch.randint(2, (size, self.dim), generator=generator, dtype=torch.int8)
                .to(torch.float64)
                .mul_(2)
                .sub_(1)
            )
        matrix = matrix.mul_(self.dim**-0.5).to(like.device, like.dtype)
        bytes_ = matrix.numel() * matrix.element_size()
        if self._kept_bytes + bytes_ <= _KEEP_BYTES:
            self._kept[key] = matrix
            self._kept_bytes += bytes_
        return matrix
