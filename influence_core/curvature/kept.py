"""A Gauss-Newton matrix from Jacobians that are kept: products without any pass over the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from influence_core.gradients import Choice, Data, Samples, output_jacobians
from influence_core.progress import tick

KEPT_MIB = 1280.0
"""Memory for the Jacobians of all samples, or for the matrix that they give."""

DENSE = 1024
"""Up to so many parameters the matrix itself is kept: a product with it is cheaper than with the Jacobians."""

LARGEST_DENSE = 4096
"""Up to so many parameters it is kept where the Jacobians do not fit: forming it takes N K P^2 multiplications."""

_PIECE_BYTES = 4 * 2**20
"""Jacobians of about this size are multiplied twice while they are in the cache."""

Way = Literal["jacobians", "matrix", "stream"]


def way(samples: int, outputs: int, size: int, itemsize: int, memory_mib: float = KEPT_MIB) -> Way:
    """What to keep of a Gauss-Newton matrix.

    Args:
        samples: N.
        outputs: K.
        size: P.
        itemsize: bytes of a number.
        memory_mib: what may be kept.

    Returns:
        "jacobians" for ``[N, K, P]``, beside which lies the curvature at the outputs ``[N, K, K]``, "matrix" for
        ``[P, P]``, "stream" where neither fits and every product passes over the data.

    Example:
        >>> way(1000, 10, 14_458, 4), way(60_000, 10, 3_000, 4), way(50_000, 10, 11_000_000, 4)
        ('jacobians', 'matrix', 'stream')
    """
    room = memory_mib * 2**20 / itemsize
    if size <= DENSE and size * size <= room:
        return "matrix"
    if samples * outputs * (size + outputs) <= room:
        return "jacobians"
    return "matrix" if size <= LARGEST_DENSE and size * size <= room else "stream"


@dataclass(frozen=True)
class KeptJacobians:
    r""":math:`\sum_n J_n^\top C_n J_n` by two matrix products for each piece of the Jacobians.

    Attributes:
        jacobians: ``[N, K, P]``.
        curvature: C at the outputs, ``[N, K, K]``.
    """

    jacobians: Tensor
    curvature: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """The sum times R vectors, ``[R, P] -> [R, P]``."""
        tick()
        total = torch.zeros_like(rows)
        columns = rows.T.contiguous()
        at_once = max(1, _PIECE_BYTES // (self.jacobians[0].numel() * self.jacobians.element_size()))
        for piece, curved in zip(self.jacobians.split(at_once), self.curvature.split(at_once), strict=True):
            flat = piece.flatten(0, 1)
            changes = torch.bmm(curved, (flat @ columns).unflatten(0, piece.shape[:2]))
            total.addmm_(changes.flatten(0, 1).T, flat)
        return total

    def trace(self) -> float:
        """The sum of its diagonal."""
        total = 0.0
        at_once = max(1, _PIECE_BYTES // (self.jacobians[0].numel() * self.jacobians.element_size()))
        for piece, curved in zip(self.jacobians.split(at_once), self.curvature.split(at_once), strict=True):
            total += float((torch.bmm(piece, piece.mT) * curved).sum(dtype=torch.float64))
        return total


@dataclass(frozen=True)
class KeptMatrix:
    """The same by the matrix itself.

    Attributes:
        matrix: ``[P, P]``, symmetric.
    """

    matrix: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """The sum times R vectors, ``[R, P] -> [R, P]``."""
        tick()
        return rows @ self.matrix

    def trace(self) -> float:
        """The sum of its diagonal."""
        return float(self.matrix.diagonal().sum(dtype=torch.float64))


def keep_jacobians(model: nn.Module, data: Data, parameters: Choice, curvature: Tensor) -> KeptJacobians:
    """Jacobians of all samples; see ``gradients.output_jacobians``.

    Args:
        model: in eval mode, with outputs ``[B, K]``; it is only read.
        data: N samples.
        parameters: which parameters, P numbers in all.
        curvature: ``[N, K, K]``.

    Returns:
        The products.
    """
    return KeptJacobians(output_jacobians(model, data, parameters=parameters), curvature)


def keep_matrix(model: nn.Module, data: Data, parameters: Choice, curvature: Tensor, size: int) -> KeptMatrix:
    """The matrix, from the Jacobians of some samples at a time.

    Args:
        model: in eval mode, with outputs ``[B, K]``; it is only read.
        data: N samples.
        parameters: which parameters.
        curvature: ``[N, K, K]``.
        size: P.

    Returns:
        The products.
    """
    matrix = curvature.new_zeros(size, size)
    row = curvature.shape[1] * size * curvature.element_size()
    for ids in torch.arange(len(curvature)).split(max(1, int(KEPT_MIB * 2**20 / 4) // row)):
        jacobians = output_jacobians(model, _Some(data, ids, curvature), parameters=parameters)
        curved = torch.bmm(curvature[ids.to(curvature.device)], jacobians)
        matrix.addmm_(jacobians.flatten(0, 1).T, curved.flatten(0, 1))
    return KeptMatrix((matrix + matrix.T).div_(2))


class _Some:
    """Some samples of a dataset."""

    def __init__(self, data: Data, ids: Tensor, like: Tensor) -> None:
        self._samples, self._ids = Samples(data, None, like.device, like.dtype), ids

    def __len__(self) -> int:
        return len(self._ids)

    def batch(self, ids: Tensor) -> tuple[Any, Any]:
        return self._samples.batch(self._ids[ids])
