"""Fully connected layers, with any number of axes between samples and features."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from influence_core.gradients.forms import Dense, Form, Outer
from influence_core.gradients.rules.registry import Call, register, sum_to


@register(nn.Linear, features_last=True)
def linear(layer: nn.Linear, call: Call, wanted: frozenset[str]) -> Iterator[tuple[str, Form]]:
    """``y = W x + b``: the weight's gradient is ``sum_t dy_t x_t'``, the bias's ``sum_t dy_t``."""
    inputs, gradient = call.input.to(layer.weight.dtype), call.gradient.to(layer.weight.dtype)
    if "weight" in wanted:
        yield (
            "weight",
            Outer(
                inputs.reshape(call.batch, -1, layer.in_features),
                gradient.reshape(call.batch, -1, layer.out_features),
                tuple(layer.weight.shape),
            ),
        )
    if "bias" in wanted:
        yield "bias", Dense(sum_to(gradient, 1))
