"""Root-mean-square normalisation."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn import functional as F

from influence_core.gradients.forms import Dense, Form
from influence_core.gradients.rules.registry import Call, register, sum_to


@register(nn.RMSNorm, features_last=True)
def rms_norm(layer: nn.RMSNorm, call: Call, wanted: frozenset[str]) -> Iterator[tuple[str, Form]]:
    """``y = w x / rms(x)``: ``sum_t dy_t x_t / rms(x_t)``."""
    if "weight" in wanted:
        inputs, gradient = call.input.to(layer.weight.dtype), call.gradient.to(layer.weight.dtype)
        normalised = F.rms_norm(inputs, list(layer.normalized_shape), None, layer.eps)
        yield "weight", Dense(sum_to(normalised * gradient, len(layer.normalized_shape)))
