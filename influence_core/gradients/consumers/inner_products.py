"""Inner products of every sample's gradient with queries."""

from __future__ import annotations

import torch
from torch import Tensor

from influence_core.gradients.block import Block, Consumer, SweepContext
from influence_core.gradients.queries import Queries


class InnerProducts(Consumer):
    """``g_n . q_m`` for all samples n and queries m."""

    def __init__(self, queries: Queries) -> None:
        """Take the queries."""
        self._queries = queries

    def start(self, context: SweepContext) -> None:
        """Make room, and check that the queries fit."""
        self._queries.check(context)
        self._products = torch.zeros(context.samples, self._queries.count, device=context.device, dtype=context.dtype)

    def consume(self, block: Block) -> None:
        """Add up over parameters."""
        products = self._products[block.samples]
        for name, gradients in block.items():
            if name in self._queries.names:
                self._queries.products(gradients, products)

    def result(self) -> Tensor:
        """``[N, M]``."""
        return self._products
