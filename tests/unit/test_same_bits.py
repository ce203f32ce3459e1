"""A solution is the same to the last bit wherever its tensors happen to lie in memory."""

from __future__ import annotations

import torch

from influence_core.curvature import Columns, solve_lsqr


def test_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(20, 20, generator=generator, dtype=torch.float64)
    b = torch.randn(20, generator=generator, dtype=torch.float64)
    block = Columns(lambda rows: rows @ (half + half.T), torch.arange(20) % 2 == 0)
    found, kept = set(), []
    for k in range(60):
        kept.append(torch.empty(1 + 37 * k % 300))  # moves what is allocated next
        found.add(tuple(solve_lsqr(block, b, max_iterations=9).x.tolist()))
    assert len(found) == 1
