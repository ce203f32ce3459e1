"""Exact references: one ordinary backward pass per sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def one_by_one(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], data: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """Per-sample gradients of all trainable parameters, ``[N, *shape]``, by batches of one."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found: dict[str, list[Tensor]] = {name: [] for name in parameters}
    for x, y in zip(*data, strict=True):
        value = loss(model(x[None]), y[None])[0]
        gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            found[name].append(torch.zeros_like(parameter) if gradient is None else gradient)
    return {name: torch.stack(rows) for name, rows in found.items()}


def flat(gradients: dict[str, Tensor]) -> Tensor:
    """``[N, P]``."""
    return torch.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1)


def assert_close(found: Tensor, expected: Tensor, relative: float = 1e-10) -> None:
    """Largest deviation, relative to the largest entry."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    scale = float(expected.abs().max())
    error = float((found - expected).abs().max())
    assert error <= relative * scale, f"relative error {error / max(scale, 1e-300):.3e}"
