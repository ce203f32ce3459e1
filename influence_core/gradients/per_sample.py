"""Per-sample gradients by ``torch.func``: one chunk at a time, reduced before the next, never N x P."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from influence_core.errors import InvalidInput
from influence_core.losses import Loss

Vectors = dict[str, Tensor]
"""Parameter name -> tensor [B, *shape of the parameter]."""

_MEMORY_MIB = 256


class Data(Protocol):
    """What the functions here need of a dataset."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def batch(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels of some samples."""
        ...


def inner_products(model: nn.Module, loss: Loss, left: Data, right: Data | Mapping[str, Tensor]) -> Tensor:
    """Inner products of the per-sample gradients of two datasets.

    Args:
        model: in eval mode.
        loss: one loss per sample.
        left: N samples, streamed past.
        right: M samples, or M vectors as name -> [M, *shape].

    Returns:
        [N, M], in the dtype of the model.
    """
    if isinstance(right, Mapping):
        return _times(model, loss, left, right)
    size = _chunk(model)
    columns = [_times(model, loss, left, vectors) for vectors in _gradients(model, loss, right, None, size)]
    return torch.cat(columns, dim=1)


def squared_norms(
    model: nn.Module, loss: Loss, data: Data, weights: Mapping[str, Tensor] | None = None, labels: Tensor | None = None
) -> Tensor:
    """Squared norms of the per-sample gradients, in a diagonal metric if one is given.

    Args:
        model: in eval mode.
        loss: one loss per sample.
        data: N samples.
        weights: the diagonal w, name -> tensor of the parameter's shape; 1 everywhere by default.
        labels: [N], instead of those of ``data``.

    Returns:
        sum_j w_j g_j^2 for each sample, [N].
    """
    parts = []
    for gradients in _gradients(model, loss, data, labels):
        squares = {name: g.square() for name, g in gradients.items()}
        if weights is not None:
            squares = {name: g * weights[name] for name, g in squares.items()}
        parts.append(torch.stack([g.flatten(1).sum(1) for g in squares.values()]).sum(0))
    return torch.cat(parts)


def mean_squares(model: nn.Module, loss: Loss, data: Data) -> Vectors:
    """Mean of the squared per-sample gradients: the diagonal of the empirical Fisher matrix.

    Args:
        model: in eval mode.
        loss: one loss per sample.
        data: samples with the labels to use.

    Returns:
        Parameter name -> tensor of the parameter's shape.
    """
    totals: Vectors = {}
    for gradients in _gradients(model, loss, data):
        for name, g in gradients.items():
            part = g.square().sum(0)
            totals[name] = totals[name] + part if name in totals else part
    return {name: total / len(data) for name, total in totals.items()}


def per_sample_gradients(model: nn.Module, loss: Loss, data: Data) -> Vectors:
    """All per-sample gradients at once; N x P numbers, so for few samples.

    Args:
        model: in eval mode.
        loss: one loss per sample.
        data: N samples.

    Returns:
        Parameter name -> [N, *shape].
    """
    chunks = list(_gradients(model, loss, data))
    return {name: torch.cat([c[name] for c in chunks]) for name in chunks[0]}


def check_scorable(model: nn.Module) -> None:
    """Refuse a model whose per-sample gradients are not defined.

    Args:
        model: to look at.

    Raises:
        InvalidInput: if a normalisation or dropout layer is in training mode; the message names it.
    """
    for name, module in model.named_modules():
        mixing = isinstance(module, nn.modules.batchnorm._BatchNorm) and (
            module.training or module.running_mean is None
        )
        if mixing or (isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0):
            raise InvalidInput(
                f"the layer {name or 'model'} ({type(module).__name__}) is in training mode, where a sample's loss "
                "depends on the rest of its batch or on chance, so that it has no gradient of its own. "
                "Call model.eval() first."
            )


def _times(model: nn.Module, loss: Loss, left: Data, vectors: Mapping[str, Tensor]) -> Tensor:
    rows = []
    for gradients in _gradients(model, loss, left):
        products = [g.flatten(1) @ vectors[name].flatten(1).T for name, g in gradients.items()]
        rows.append(torch.stack(products).sum(0))
    return torch.cat(rows)


def _chunk(model: nn.Module) -> int:
    size = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return max(1, min(256, _MEMORY_MIB * 2**20 // max(1, 3 * size)))


def _gradients(
    model: nn.Module, loss: Loss, data: Data, labels: Tensor | None = None, size: int | None = None
) -> Iterator[Vectors]:
    check_scorable(model)
    parameters = {k: p.detach() for k, p in model.named_parameters() if p.requires_grad}
    rest: dict[str, Any] = {k: p.detach() for k, p in model.named_parameters() if not p.requires_grad}
    rest |= dict(model.named_buffers())
    device = next(model.parameters()).device

    def sample_loss(changing: Vectors, x: Tensor, y: Tensor) -> Tensor:
        outputs = functional_call(model, (changing, rest), (x[None],))
        return loss(outputs, y[None])[0]

    per_sample = vmap(grad(sample_loss), in_dims=(None, 0, 0))
    for ids in torch.arange(len(data)).split(size or _chunk(model)):
        x, y = data.batch(ids)
        y = y if labels is None else labels[ids]
        yield per_sample(parameters, x.to(device), y.to(device))
