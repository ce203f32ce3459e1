"""Squared norms of every sample's gradient."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from influence_core.gradients.block import Block, Consumer, SweepContext
from influence_core.gradients.metrics import DiagonalMetric, EuclideanMetric, Metric


class SquaredNorms(Consumer):
    """``g_n' W g_n`` for all samples n."""

    def __init__(self, metric: Metric | Mapping[str, Tensor] | None = None) -> None:
        """Choose the metric.

        Args:
            metric: ``None`` for ``sum g^2``; a dict name -> weights of the parameter's shape for ``sum w g^2``; or any
                object with the methods of ``Metric``.
        """
        if metric is None:
            metric = EuclideanMetric()
        self._metric: Metric = DiagonalMetric(metric) if isinstance(metric, Mapping) else metric

    def start(self, context: SweepContext) -> None:
        """Make room, and check that the metric fits."""
        self._metric.start(context)
        self._norms = torch.zeros(context.samples, device=context.device, dtype=context.dtype)

    def consume(self, block: Block) -> None:
        """Add up over blocks."""
        self._norms[block.samples] += self._metric.squared_norms(block)

    def result(self) -> Tensor:
        """``[N]``."""
        return self._norms
