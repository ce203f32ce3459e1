"""The fallback for one module: ``torch.func`` differentiates it, sample by sample, from recorded inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from influence_core.gradients.forms import Dense, Form
from influence_core.gradients.rules.registry import Call


def functional(layer: nn.Module, call: Call, wanted: frozenset[str]) -> Iterator[tuple[str, Form]]:
    """Vector-Jacobian products of the module's outputs with their recorded gradients, vectorised over samples.

    Exact if the module treats every sample by itself and has the samples on the first axis; the caller checks both.

    Yields:
        Name within the module, and form.
    """
    leaves, structure = pytree.tree_flatten((call.args, call.kwargs))
    leaves = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    where = [index for index, batched in enumerate(call.batched) if batched]
    parameters = {name: layer.get_parameter(name).detach() for name in sorted(wanted)}
    used = [index for index, gradient in enumerate(call.gradients) if gradient is not None]
    cotangents = tuple(gradient for gradient in call.gradients if gradient is not None)

    def of_sample(samples: tuple[Tensor, ...], sample_cotangents: tuple[Tensor, ...]) -> dict[str, Tensor]:
        mine = list(leaves)
        for index, value in zip(where, samples, strict=True):
            mine[index] = value.unsqueeze(0)

        def outputs_of(values: dict[str, Tensor]) -> tuple[Tensor, ...]:
            args, kwargs = pytree.tree_unflatten(mine, structure)
            outputs = torch.func.functional_call(layer, values, args, kwargs)
            tensors = output_tensors(outputs)
            return tuple(tensors[index].squeeze(0) for index in used)

        _, pullback, *_ = torch.func.vjp(outputs_of, parameters)
        return pullback(sample_cotangents)[0]

    samples = tuple(leaves[index] for index in where)
    gradients = torch.func.vmap(of_sample, randomness="error")(samples, cotangents)
    for name in parameters:
        yield name, Dense(gradients[name].detach())


def output_tensors(outputs: Any) -> list[Tensor]:
    """The floating-point tensors in a module's outputs, in a fixed order."""
    leaves = pytree.tree_leaves(outputs)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
