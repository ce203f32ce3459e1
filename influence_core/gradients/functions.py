"""The sweep's results by one call each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from influence_core.gradients.consumers import (
    Gradients,
    InnerProducts,
    MeanGradient,
    MeanSquares,
    Projections,
    SquaredNorms,
)
from influence_core.gradients.metrics import Metric
from influence_core.gradients.projections import Projection
from influence_core.gradients.queries import Queries
from influence_core.gradients.sweep import sweep
from influence_core.gradients.types import Loss


def inner_products(model: nn.Module, loss: Loss, left: Any, right: Any, **options: Any) -> Tensor:
    """Inner products of the gradients of N samples with M queries.

    Args:
        model: in eval mode; it is only read.
        loss: one loss per sample.
        left: N samples, streamed.
        right: M samples, or a dict parameter name -> ``[M, *shape]`` of vectors, or ``Queries``; kept in memory, so the
            smaller side.
        **options: of ``sweep``. ``labels`` are the left side's.

    Returns:
        ``[N, M]``.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> loss = lambda outputs, labels: outputs[:, 0]
        >>> inner_products(model, loss, (x, torch.zeros(2)), (x, torch.zeros(2)))
        tensor([[ 5., 11.],
                [11., 25.]])
    """
    if isinstance(right, Queries):
        queries = right
    elif isinstance(right, Mapping):
        queries = Queries.from_vectors(right)
    else:
        kept = {name: value for name, value in options.items() if name != "labels"}
        queries = Queries.record(model, loss, right, **kept)
    consumer = InnerProducts(queries)
    sweep(model, loss, left, [consumer], **options)
    return consumer.result()


def squared_norms(
    model: nn.Module, loss: Loss, data: Any, metric: Metric | Mapping[str, Tensor] | None = None, **options: Any
) -> Tensor:
    """Squared norms of per-sample gradients, ``[N]``; see ``SquaredNorms`` for metrics and ``sweep`` for options."""
    consumer = SquaredNorms(metric)
    sweep(model, loss, data, [consumer], **options)
    return consumer.result()


def per_sample_gradients(model: nn.Module, loss: Loss, data: Any, **options: Any) -> dict[str, Tensor]:
    """The gradients themselves, parameter name -> ``[N, *shape]``; see ``sweep`` for options."""
    consumer = Gradients()
    sweep(model, loss, data, [consumer], **options)
    return consumer.result()


def mean_gradient(model: nn.Module, loss: Loss, data: Any, **options: Any) -> dict[str, Tensor]:
    """The gradient of the mean loss, parameter name -> tensor of its shape; see ``sweep`` for options."""
    consumer = MeanGradient()
    sweep(model, loss, data, [consumer], **options)
    return consumer.result()


def mean_squares(model: nn.Module, loss: Loss, data: Any, **options: Any) -> dict[str, Tensor]:
    """The mean of squared per-sample gradients (the diagonal empirical Fisher); see ``sweep`` for options."""
    consumer = MeanSquares()
    sweep(model, loss, data, [consumer], **options)
    return consumer.result()


def project(model: nn.Module, loss: Loss, data: Any, projection: Projection, **options: Any) -> Tensor:
    """Features ``[N, k]`` of per-sample gradients; see ``sweep`` for options."""
    consumer = Projections(projection)
    sweep(model, loss, data, [consumer], **options)
    return consumer.result()
