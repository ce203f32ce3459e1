"""Projections of every sample's gradient to a few hundred numbers."""

from __future__ import annotations

from torch import Tensor

from influence_core.gradients.block import Block, SweepContext
from influence_core.gradients.consumers.base import room
from influence_core.gradients.projections import Projection


class Projections:
    """``R g_n`` for a random matrix R: inner products of features estimate those of gradients."""

    def __init__(self, projection: Projection, out: Tensor | None = None) -> None:
        """Take the projection and, if wanted, a preallocated or memory-mapped result ``[N, k]``."""
        self._projection, self._out = projection, out

    def start(self, context: SweepContext) -> None:
        """Make room."""
        self._features = room(self._out, (context.samples, self._projection.dim), context)

    def consume(self, block: Block) -> None:
        """Add up over parameters."""
        features = self._features[block.samples]
        for gradients in block.values():
            self._projection.add(gradients, features)

    def finish(self) -> None:
        """Nothing left to do."""

    def result(self) -> Tensor:
        """``[N, k]``."""
        return self._features
