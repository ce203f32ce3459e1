"""Inner products of every sample's gradient with queries."""

from __future__ import annotations

from torch import Tensor

from influence_core.gradients.block import Block, SweepContext
from influence_core.gradients.consumers.base import room
from influence_core.gradients.queries import Queries


class InnerProducts:
    """``g_n . q_m`` for all samples n and queries m."""

    def __init__(self, queries: Queries, out: Tensor | None = None) -> None:
        """Take the queries and, if wanted, a preallocated or memory-mapped result ``[N, M]``."""
        self._queries, self._out = queries, out

    def start(self, context: SweepContext) -> None:
        """Make room, and check that the queries fit."""
        self._queries.check(context)
        self._products = room(self._out, (context.samples, self._queries.count), context)

    def consume(self, block: Block) -> None:
        """Add up over parameters."""
        products = self._products[block.samples]
        for name, gradients in block.items():
            if name in self._queries.names:
                self._queries.products(gradients, products)

    def finish(self) -> None:
        """Nothing left to do."""

    def result(self) -> Tensor:
        """``[N, M]``."""
        return self._products
