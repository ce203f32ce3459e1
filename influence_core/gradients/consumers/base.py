"""Room for results."""

from __future__ import annotations

import torch
from torch import Tensor

from influence_core.gradients.block import SweepContext


def room(out: Tensor | None, shape: tuple[int, ...], context: SweepContext) -> Tensor:
    """The caller's tensor, zeroed, or a new one.

    Args:
        out: The caller's tensor, or None.
        shape: Of the result.
        context: Of the sweep.

    Returns:
        Zeros of that shape.

    Raises:
        ValueError: The caller's tensor has another shape.
    """
    if out is None:
        return torch.zeros(shape, device=context.device, dtype=context.dtype)
    if tuple(out.shape) != shape:
        raise ValueError(f"out has shape {tuple(out.shape)}, expected {shape}")
    return out.zero_()
