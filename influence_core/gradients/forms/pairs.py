"""Sums over pairs of positions, the heart of ghost inner products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from influence_core.gradients.linalg import cross_product
from influence_core.gradients.memory import GRAM_BYTES


def position_gram(left: Tensor, right: Tensor) -> Tensor:
    """Inner products of all positions of all samples.

    Args:
        left: ``[B, T, K]``.
        right: ``[M, S, K]``.

    Returns:
        ``[T, B, S, M]``: samples stand inside positions, so that shifting by positions moves long contiguous runs.
    """
    batch, positions, width = left.shape
    others, other_positions, _ = right.shape
    a = left.transpose(0, 1).reshape(-1, width)
    b = right.transpose(0, 1).reshape(-1, width)
    return cross_product(a, b).reshape(positions, batch, other_positions, others)


def pair_sum(
    pair: Callable[[slice], tuple[Tensor, Tensor]], batch: int, others: int, positions: int, other_positions: int
) -> Tensor:
    """``sum_ts X[t, b, s, m] Y[t, b, s, m]`` for all b and m, a piece of the M others at a time.

    Args:
        pair: gives X and Y for a slice of the others.
        batch: B.
        others: M.
        positions: T, per sample of the batch.
        other_positions: S, per sample of the others.

    Returns:
        ``[B, M]``.
    """
    at_once = max(1, GRAM_BYTES // max(1, 4 * batch * positions * other_positions))
    pieces = []
    for start in range(0, others, at_once):
        x, y = pair(slice(start, min(start + at_once, others)))
        pieces.append(x.mul_(y).sum((0, 2)))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
