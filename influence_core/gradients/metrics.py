"""Metrics in which gradients are measured: what ``SquaredNorms`` adds up, block by block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from influence_core.gradients.block import Block, SweepContext


class Metric(Protocol):
    """A positive quadratic form that is block-diagonal over layers."""

    def start(self, context: SweepContext) -> None:
        """Check against the parameters of the sweep; raise ValueError with names if they do not fit."""

    def squared_norms(self, block: Block) -> Tensor:
        """The block's share of ``g_n' W g_n``, ``[B]``."""
        ...


class EuclideanMetric:
    """``sum g^2``."""

    def start(self, context: SweepContext) -> None:
        """Fits everything."""

    def squared_norms(self, block: Block) -> Tensor:
        """Sum over parameters."""
        return torch.stack([gradients.squared_norms() for gradients in block.values()]).sum(0)


class DiagonalMetric:
    """``sum w g^2`` for one weight per parameter entry."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """Take name -> weights of the parameter's shape."""
        self._weights = dict(weights)

    def start(self, context: SweepContext) -> None:
        """Expect weights of the right shape for every parameter of the sweep.

        Raises:
            ValueError: A parameter has no weights, or weights of another shape.
        """
        for name, shape in context.shapes.items():
            if name not in self._weights:
                raise ValueError(f"the diagonal metric has no weights for {name!r}; give a tensor {shape}")
            found = tuple(self._weights[name].shape)
            if found != tuple(shape):
                raise ValueError(f"the diagonal metric's weights of {name!r} have shape {found}, expected {shape}")
        self._weights = {name: w.detach().to(context.device, context.dtype) for name, w in self._weights.items()}

    def squared_norms(self, block: Block) -> Tensor:
        """Sum over parameters."""
        parts = [gradients.weighted_squared_norms(self._weights[name]) for name, gradients in block.items()]
        return torch.stack(parts).sum(0)
