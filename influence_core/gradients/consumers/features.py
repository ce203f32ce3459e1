"""Projections of every sample's gradient to a few hundred numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from influence_core.gradients.block import Block, Consumer, SweepContext
from influence_core.gradients.projections import Projection


class Projections(Consumer):
    """``R g_n`` for a random matrix R: inner products of features estimate those of gradients."""

    def __init__(self, projection: Projection) -> None:
        """Take the projection."""
        self._projection = projection

    def start(self, context: SweepContext) -> None:
        """Make room."""
        self._features = torch.zeros(context.samples, self._projection.dim, device=context.device, dtype=context.dtype)

    def consume(self, block: Block) -> None:
        """Add up over parameters."""
        features = self._features[block.samples]
        for gradients in block.values():
            self._projection.add(gradients, features)

    def result(self) -> Tensor:
        """``[N, k]``."""
        return self._features
