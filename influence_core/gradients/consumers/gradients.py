"""The gradients themselves."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from influence_core.gradients.block import Block, SweepContext
from influence_core.gradients.consumers.base import room


class Gradients:
    """Every sample's gradient of every chosen parameter: N x P numbers, so for a chunk of samples."""

    def __init__(self, out: Mapping[str, Tensor] | None = None) -> None:
        """Take, if wanted, preallocated or memory-mapped results, name -> ``[N, *shape]``."""
        self._out = out or {}

    def start(self, context: SweepContext) -> None:
        """Make room."""
        self._gradients = {
            name: room(self._out.get(name), (context.samples, *shape), context)
            for name, shape in context.shapes.items()
        }

    def consume(self, block: Block) -> None:
        """Copy."""
        for name, gradients in block.items():
            for some, rows in gradients.chunks():
                begin = block.samples.start + some.start
                self._gradients[name][begin : begin + len(rows)] = gradients.layout.unflatten(rows)

    def finish(self) -> None:
        """Nothing left to do."""

    def result(self) -> dict[str, Tensor]:
        """Name -> ``[N, *shape]``."""
        return self._gradients
