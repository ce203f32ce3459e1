"""Batch normalisation during training: statistics that stand still, and statistics made anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from influence_core.errors import InvalidInput
from influence_core.gradients import plain_attention


def norm_layers(model: nn.Module) -> list[_NormBase]:
    """The batch and instance normalisation layers of ``model`` that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Let forward passes in training mode use batch statistics without moving the running ones.

    Sharpness-aware training needs it: its perturbed pass is at weights that the model never has.

    Args:
        model: its normalisation layers are changed inside the ``with`` block only.

    Yields:
        Nothing.
    """
    layers = norm_layers(model)
    before = [dict(layer._buffers) for layer in layers]
    for layer in layers:  # copies to move; instance normalisation heeds no other way of asking
        layer._buffers.update({name: b.clone() for name, b in layer._buffers.items() if b is not None})
    try:
        yield
    finally:
        for layer, buffers in zip(layers, before, strict=True):
            layer._buffers.update(buffers)


@torch.no_grad()
def refresh_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Make the running statistics anew as the plain average over ``batches``.

    Args:
        model: in any mode; its mode afterwards is the one before.
        batches: inputs [B, ...]; at least one.

    Raises:
        InvalidInput: if there is no batch.
    """
    layers = norm_layers(model)
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()  # dropout stays off; only the normalisation layers look at the batch
        for layer in layers:
            layer.train()
            layer.reset_running_stats()
            layer.momentum = None  # PyTorch's sign for a cumulative average
        seen = 0
        with plain_attention():
            for inputs in batches:
                model(inputs)
                seen += 1
        if not seen:
            raise InvalidInput("running statistics cannot be made anew from no batch at all: give at least one")
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes:
            module.training = mode
