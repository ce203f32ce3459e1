"""Group normalisation."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn import functional as F

from influence_core.gradients.forms import Dense, Form
from influence_core.gradients.rules.registry import Call, register, sum_to_channels


@register(nn.GroupNorm)
def group_norm(layer: nn.GroupNorm, call: Call, wanted: frozenset[str]) -> Iterator[tuple[str, Form]]:
    """``y = w normalised(x) + b`` per channel: sums over all positions."""
    inputs, gradient = call.input.to(layer.weight.dtype), call.gradient.to(layer.weight.dtype)
    if inputs.shape[0] != call.batch:
        raise ValueError(f"expected {call.batch} samples on the first axis, got {tuple(inputs.shape)}")
    if "weight" in wanted:
        normalised = F.group_norm(inputs, layer.num_groups, None, None, layer.eps)
        yield "weight", Dense(sum_to_channels(normalised * gradient))
    if "bias" in wanted:
        yield "bias", Dense(sum_to_channels(gradient))
