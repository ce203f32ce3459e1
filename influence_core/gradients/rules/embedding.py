"""Tables of vectors."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from influence_core.gradients.forms import Form, Lookup
from influence_core.gradients.rules.registry import Call, register


@register(nn.Embedding, features_last=True)
def embedding(layer: nn.Embedding, call: Call, wanted: frozenset[str]) -> Iterator[tuple[str, Form]]:
    """``y_t = W[id_t]``: the output gradients, added to the rows that were looked up; none for the padding row."""
    if "weight" in wanted:
        ids = call.input.reshape(call.batch, -1)
        gradient = call.gradient.to(layer.weight.dtype).reshape(call.batch, -1, layer.embedding_dim)
        if layer.padding_idx is not None:
            gradient = gradient * (ids != layer.padding_idx)[:, :, None]
        yield "weight", Lookup(ids, gradient, tuple(layer.weight.shape))
