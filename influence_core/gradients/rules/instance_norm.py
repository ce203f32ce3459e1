"""Instance normalisation, by each image's own statistics or by running ones."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn import functional as F

from influence_core.gradients.forms import Dense, Form
from influence_core.gradients.rules.registry import Call, register, sum_to_channels


@register(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
def instance_norm(
    layer: nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d, call: Call, wanted: frozenset[str]
) -> Iterator[tuple[str, Form]]:
    """``y = w normalised(x) + b`` per channel: sums over all positions."""
    inputs, gradient = call.input.to(layer.weight.dtype), call.gradient.to(layer.weight.dtype)
    if inputs.dim() != layer._get_no_batch_dim() + 1 or inputs.shape[0] != call.batch:
        raise ValueError(f"expected an input of {call.batch} samples, got {tuple(inputs.shape)}")
    if "weight" in wanted:
        normalised = F.instance_norm(
            inputs, layer.running_mean, layer.running_var, use_input_stats=not layer.track_running_stats, eps=layer.eps
        )
        yield "weight", Dense(sum_to_channels(normalised * gradient))
    if "bias" in wanted:
        yield "bias", Dense(sum_to_channels(gradient))
