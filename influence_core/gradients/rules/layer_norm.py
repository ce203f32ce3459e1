"""Layer normalisation."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn import functional as F

from influence_core.gradients.forms import Dense, Form
from influence_core.gradients.rules.registry import Call, register, sum_to


@register(nn.LayerNorm, features_last=True)
def layer_norm(layer: nn.LayerNorm, call: Call, wanted: frozenset[str]) -> Iterator[tuple[str, Form]]:
    """``y = w normalised(x) + b``: ``sum_t dy_t normalised(x_t)`` and ``sum_t dy_t``."""
    inputs, gradient = call.input.to(layer.weight.dtype), call.gradient.to(layer.weight.dtype)
    kept = len(layer.normalized_shape)
    if "weight" in wanted:
        normalised = F.layer_norm(inputs, layer.normalized_shape, None, None, layer.eps)
        yield "weight", Dense(sum_to(normalised.mul_(gradient), kept))
    if "bias" in wanted:
        yield "bias", Dense(sum_to(gradient, kept))
