"""Multi-head attention: recomputed between its projections, which are then linear layers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from influence_core.gradients.forms import Dense, Form, Outer
from influence_core.gradients.rules.registry import Call, register

_ARGUMENTS = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask", "average_attn_weights")

_PARAMETERS = (
    "in_proj_weight",
    "in_proj_bias",
    "q_proj_weight",
    "k_proj_weight",
    "v_proj_weight",
    "bias_k",
    "bias_v",
    "out_proj.weight",
    "out_proj.bias",
)


@register(nn.MultiheadAttention, parameters=_PARAMETERS)
def multihead_attention(layer: nn.MultiheadAttention, call: Call, wanted: frozenset[str]) -> Iterator[tuple[str, Form]]:
    """``Wo softmax(Wq x (Wk y)' / sqrt(d) + mask) Wv z``, inputs and output gradients of all four projections.

    The layer computes its projections inside one function, where no hook reaches them. The attention itself is
    computed again from the layer's inputs, with the projected tensors as leaves, and differentiated.

    Yields:
        Name within the layer, and form.

    Raises:
        ValueError: The call is one that the rule does not know.
    """
    given: dict[str, Any] = dict(zip(_ARGUMENTS, call.args, strict=False)) | call.kwargs
    dtype = layer.out_proj.weight.dtype
    query, key, value = (given[name] for name in ("query", "key", "value"))
    same = key is query and value is query
    inputs = [_samples_first(x.to(dtype), layer.batch_first) for x in (query, key, value)]
    if inputs[0].dim() != 3 or inputs[0].shape[0] != call.batch:
        raise ValueError(f"expected a query of {call.batch} samples, got {tuple(query.shape)}")
    gradient = call.gradients[0]
    gradient = (
        torch.zeros_like(inputs[0]) if gradient is None else _samples_first(gradient.to(dtype), layer.batch_first)
    )

    with torch.enable_grad():
        projected = [x.requires_grad_() for x in _project(layer, inputs)]
        extras = [
            bias.detach().to(dtype).expand(call.batch, 1, -1).clone().requires_grad_()
            for bias in (layer.bias_k, layer.bias_v)
            if bias is not None
        ]
        heads, weights = _attend(layer, projected, extras, given)
        if given.get("average_attn_weights", True):
            weights = weights.mean(1)
    outputs, output_gradients = [heads], [gradient @ layer.out_proj.weight]
    if len(call.gradients) > 1 and call.gradients[1] is not None:
        outputs.append(weights)
        output_gradients.append(call.gradients[1].to(dtype))
    found = torch.autograd.grad(outputs, [*projected, *extras], output_gradients)

    yield from _projection_forms(layer, inputs, list(found[:3]), same, wanted)
    for name, extra in zip(("bias_k", "bias_v"), found[3:], strict=False):
        if name in wanted:
            yield name, Dense(extra[:, None])
    if "out_proj.weight" in wanted:
        yield "out_proj.weight", Outer(heads.detach(), gradient, tuple(layer.out_proj.weight.shape))
    if "out_proj.bias" in wanted:
        yield "out_proj.bias", Dense(gradient.sum(1))


def _samples_first(x: Tensor, batch_first: bool) -> Tensor:
    return x if batch_first else x.transpose(0, 1)


def _project(layer: nn.MultiheadAttention, inputs: list[Tensor]) -> list[Tensor]:
    """Queries, keys and values, ``[B, T, E]`` each, detached."""
    if layer._qkv_same_embed_dim:
        weights = layer.in_proj_weight.detach().chunk(3)
    else:
        weights = tuple(w.detach() for w in (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight))
    biases = (None,) * 3 if layer.in_proj_bias is None else layer.in_proj_bias.detach().chunk(3)
    return [F.linear(x.detach(), w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]


def _attend(
    layer: nn.MultiheadAttention, projected: list[Tensor], extras: list[Tensor], given: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The heads' outputs side by side ``[B, T, E]`` and the attention weights ``[B, heads, T, S]``."""
    query, key, value = projected
    batch, length, _ = query.shape
    if extras:
        key, value = torch.cat([key, extras[0]], dim=1), torch.cat([value, extras[1]], dim=1)
    if layer.add_zero_attn:
        key, value = (F.pad(x, (0, 0, 0, 1)) for x in (key, value))
    split = [x.unflatten(2, (layer.num_heads, layer.head_dim)).transpose(1, 2) for x in (query, key, value)]
    scores = split[0] @ split[1].transpose(2, 3) / math.sqrt(layer.head_dim)
    added = scores.shape[3] - projected[1].shape[1]  # the extra keys are never masked
    for mask, shape in ((given.get("attn_mask"), None), (given.get("key_padding_mask"), (batch, 1, 1, -1))):
        if mask is not None:
            mask = _additive(mask, scores.dtype)
            each_head = (-1, layer.num_heads if mask.dim() == 3 else 1, length, mask.shape[-1])
            mask = mask.reshape(shape or each_head)
            scores = scores + F.pad(mask, (0, added))
    weights = scores.softmax(dim=3)
    return (weights @ split[2]).transpose(1, 2).flatten(2), weights


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask, float("-inf"))
    return mask.to(dtype)


def _projection_forms(
    layer: nn.MultiheadAttention, inputs: list[Tensor], gradients: list[Tensor], same: bool, wanted: frozenset[str]
) -> Iterator[tuple[str, Form]]:
    """The three input projections: one parameter of three blocks of rows, or three parameters."""
    if "in_proj_weight" in wanted and layer.in_proj_weight is not None:
        shape = tuple(layer.in_proj_weight.shape)
        if same:
            yield "in_proj_weight", Outer(inputs[0], torch.cat(gradients, dim=2), shape)
        else:
            blocks = [torch.bmm(g.transpose(1, 2), x) for x, g in zip(inputs, gradients, strict=True)]
            yield "in_proj_weight", Dense(torch.cat(blocks, dim=1))
    names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    for name, x, g in zip(names, inputs, gradients, strict=True):
        if name in wanted:
            yield name, Outer(x, g, (g.shape[2], x.shape[2]))
    if "in_proj_bias" in wanted:
        yield "in_proj_bias", Dense(torch.cat([g.sum(1) for g in gradients], dim=1))
