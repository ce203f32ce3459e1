"""The gradients themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from influence_core.gradients.block import Block, Consumer, SweepContext


class Gradients(Consumer):
    """Every sample's gradient of every chosen parameter: N x P numbers, so for a chunk of samples."""

    def start(self, context: SweepContext) -> None:
        """Make room."""
        self._gradients = {
            name: torch.zeros(context.samples, *shape, device=context.device, dtype=context.dtype)
            for name, shape in context.shapes.items()
        }

    def consume(self, block: Block) -> None:
        """Copy."""
        for name, gradients in block.items():
            for some, rows in gradients.chunks():
                begin = block.samples.start + some.start
                self._gradients[name][begin : begin + len(rows)] = gradients.layout.unflatten(rows)

    def result(self) -> dict[str, Tensor]:
        """Name -> ``[N, *shape]``."""
        return self._gradients
