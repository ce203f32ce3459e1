"""Means over the dataset: of gradients, and of their squares."""

from __future__ import annotations

import torch
from torch import Tensor

from influence_core.gradients.block import Block, Consumer, SampleGradients, SweepContext


class _Mean(Consumer):
    """Adds up what ``of`` gives for every block, and divides by N."""

    def start(self, context: SweepContext) -> None:
        """Make room."""
        self._samples = context.samples
        self._sums = {
            name: torch.zeros(shape, device=context.device, dtype=context.dtype)
            for name, shape in context.shapes.items()
        }

    def consume(self, block: Block) -> None:
        """Add up."""
        for name, gradients in block.items():
            self._sums[name] += self.of(gradients)

    def finish(self) -> None:
        """Divide."""
        for total in self._sums.values():
            total /= self._samples

    def result(self) -> dict[str, Tensor]:
        """Name -> mean, of the parameter's shape."""
        return self._sums

    def of(self, gradients: SampleGradients) -> Tensor:
        """What is added up, of the parameter's shape."""
        raise NotImplementedError


class MeanGradient(_Mean):
    """``1/N sum_n g_n``: the gradient of the mean loss."""

    def of(self, gradients: SampleGradients) -> Tensor:
        """The batch's sum, where possible without single gradients."""
        return gradients.total()


class MeanSquares(_Mean):
    """``1/N sum_n g_n^2``, entry by entry: the diagonal of the empirical Fisher matrix."""

    def of(self, gradients: SampleGradients) -> Tensor:
        """The batch's sum of squares of per-sample gradients."""
        return gradients.total_of_squares()
