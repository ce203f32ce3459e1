"""Batch normalisation by its running statistics: in eval mode an affine map of each channel."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from influence_core.gradients.forms import Dense, Form
from influence_core.gradients.rules.registry import Call, register, sum_to_channels


@register(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
def batch_norm(
    layer: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm, call: Call, wanted: frozenset[str]
) -> Iterator[tuple[str, Form]]:
    """``y = w (x - mean) / std + b``: the scale's gradient is ``sum_t dy_t (x_t - mean) / std``."""
    inputs, gradient = call.input.to(layer.weight.dtype), call.gradient.to(layer.weight.dtype)
    if inputs.shape[0] != call.batch:
        raise ValueError(f"expected {call.batch} samples on the first axis, got {tuple(inputs.shape)}")
    if "weight" in wanted:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        channel = (-1, *(1,) * (inputs.dim() - 2))
        # Centred before it is multiplied: sum(dy x) - mean sum(dy) would lose digits where the mean is large.
        centred = sum_to_channels((inputs - layer.running_mean.view(channel)).mul_(gradient))
        yield "weight", Dense(centred * (layer.running_var + layer.eps).rsqrt())
    if "bias" in wanted:
        yield "bias", Dense(sum_to_channels(gradient))
