"""Convolutions along 1, 2 or 3 axes, with every option of stride, padding, dilation and groups."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn import functional as F

from influence_core.gradients.forms import Convolution, Dense, Form, Geometry
from influence_core.gradients.rules.registry import Call, register, sum_to_channels


@register(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def convolution(
    layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, call: Call, wanted: frozenset[str]
) -> Iterator[tuple[str, Form]]:
    """``y_t = sum_k W_k x_(t + k) + b``: outer products of output gradients and patches, summed over positions."""
    axes = layer.weight.dim() - 2
    inputs, gradient = call.input.to(layer.weight.dtype), call.gradient.to(layer.weight.dtype)
    if inputs.dim() != axes + 2 or inputs.shape[0] != call.batch:
        raise ValueError(f"expected an input [{call.batch}, channels, {axes} axes], got {tuple(inputs.shape)}")
    if "weight" in wanted:
        # Both sides of every axis, last axis first, as functional.pad wants them.
        sides = list(layer._reversed_padding_repeated_twice)
        padding = tuple(sides[2 * (axes - 1 - axis)] for axis in range(axes))
        symmetric = all(sides[2 * i] == sides[2 * i + 1] for i in range(axes))
        if layer.padding_mode != "zeros" or not symmetric:
            mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
            inputs, padding = F.pad(inputs, sides, mode=mode), (0,) * axes
        geometry = Geometry(layer.kernel_size, layer.stride, padding, layer.dilation, layer.groups)
        yield "weight", Convolution(inputs, gradient, tuple(layer.weight.shape), geometry)
    if "bias" in wanted:
        yield "bias", Dense(sum_to_channels(gradient))
