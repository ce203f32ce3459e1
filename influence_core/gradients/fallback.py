"""The fallback for the whole model: ``torch.func``, or one backward pass per sample where that does not apply."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from influence_core.gradients.forms import Dense, Form
from influence_core.gradients.memory import ROWS_BYTES
from influence_core.gradients.types import Loss
from influence_core.inputs import Inputs, single
from influence_core.threads import ignored_while_needed

_slower_and_still_right = ignored_while_needed(UserWarning, "There is a performance drop")


def whole_model_gradients(
    model: nn.Module, names: Sequence[str], loss: Loss, inputs: Inputs, labels: Any, vectorised: bool
) -> Iterator[tuple[slice, dict[str, Form]]]:
    """Explicit per-sample gradients of some parameters, a few samples at a time.

    Args:
        model: a private model; its parameters need not require gradients.
        names: which parameters.
        loss: one loss per sample.
        inputs: ``[B, ...]``.
        labels: ``[B, ...]``.
        vectorised: whether to use ``torch.func.vmap``; else one forward and backward pass per sample.

    Yields:
        Which samples of the batch, and name -> form.
    """
    parameters = {name: model.get_parameter(name).detach() for name in names}
    entries = sum(parameter.numel() * parameter.element_size() for parameter in parameters.values())
    at_once = max(1, ROWS_BYTES // max(1, entries))
    for start in range(0, len(inputs), at_once):
        some = slice(start, min(start + at_once, len(inputs)))
        function = _vectorised if vectorised else _one_by_one
        gradients = function(model, parameters, loss, inputs[some], labels[some])
        yield some, {name: Dense(gradient) for name, gradient in gradients.items()}


def _loss_of_one(model: nn.Module, values: dict[str, Tensor], loss: Loss, x: Any, y: Any) -> Tensor:
    return loss(torch.func.functional_call(model, values, (single(x),)), single(y))[0]


def _vectorised(
    model: nn.Module, parameters: dict[str, Tensor], loss: Loss, inputs: Inputs, labels: Any
) -> dict[str, Tensor]:
    def of_sample(values: dict[str, Tensor], x: Any, y: Any) -> Tensor:
        return _loss_of_one(model, values, loss, x, y)

    mapped = torch.func.vmap(torch.func.grad(of_sample), in_dims=(None, 0, 0), randomness="error")
    with torch.enable_grad(), _slower_and_still_right():
        return {name: gradient.detach() for name, gradient in mapped(parameters, inputs, labels).items()}


def _one_by_one(
    model: nn.Module, parameters: dict[str, Tensor], loss: Loss, inputs: Inputs, labels: Any
) -> dict[str, Tensor]:
    gradients = {name: parameter.new_zeros(len(inputs), *parameter.shape) for name, parameter in parameters.items()}
    for index in range(len(inputs)):
        x, y = inputs[index], labels[index]
        leaves = {name: parameter.clone().requires_grad_() for name, parameter in parameters.items()}
        with torch.enable_grad():
            value = _loss_of_one(model, leaves, loss, x, y)
            found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True) if value.requires_grad else ()
        for name, gradient in zip(leaves, found, strict=False):
            if gradient is not None:
                gradients[name][index] = gradient
    return gradients
