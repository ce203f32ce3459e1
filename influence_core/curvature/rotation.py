"""Per-sample gradients of a layer in the eigenbasis of its Kronecker factors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from influence_core.curvature.kronecker import Layer, factors, positions
from influence_core.gradients import Block
from influence_core.gradients.linalg import cross_product


class Rotation:
    """``Q_S' G_n Q_A`` of every sample, through the gradient or through its factors, whichever is cheaper.

    A gradient is a sum of outer products over T positions. Rotating these costs T (K^2 + C^2) multiply-adds, rotating
    the C x K matrix that they make costs C K^2 + C^2 K: late convolutions and linear layers have fewer positions than
    channels. With one position, squares of the matrix are products of squares, and it is never formed.
    """

    def __init__(self, layer: Layer, inputs: Tensor, outputs: Tensor) -> None:
        """Take the eigenvectors.

        Args:
            layer: the layer.
            inputs: Q_A, eigenvectors in columns, in the gradients' type, ``[G, K', K']``.
            outputs: Q_S, likewise, ``[G, C/G, C/G]``.
        """
        self._layer, self._inputs, self._outputs = layer, inputs.contiguous(), outputs.contiguous()
        factored = inputs[:, layer.columns().to(inputs.device)]  # rows in the order of the factors' entries
        self._shift = None if layer.bias is None else factored[:, -1]
        inner = factored if layer.bias is None else factored[:, :-1]
        self._factored = inner.transpose(1, 2).contiguous()

    def sum_of_squares(self, block: Block) -> Tensor | None:
        """Squared entries, added up over the batch.

        Args:
            block: gradients of one batch.

        Returns:
            ``[G, C/G, K']``; None where nothing of the layer is in the block.
        """
        total: Tensor | None = None
        if self._positions(block) == 1:
            sides = ((d[:, :, 0].square_(), a[:, :, 0].square_()) for d, a in self._sides(block))
            parts = (d.permute(1, 2, 0) @ a.transpose(0, 1) for d, a in sides)
        else:
            parts = (matrices.square_().sum(0) for matrices in self._matrices(block))
        for part in parts:
            total = part if total is None else total.add_(part)
        return total

    def weighted_squared_norms(self, block: Block, weights: Tensor) -> Tensor | None:
        """Squared entries, times weights, added up within each sample.

        Args:
            block: gradients of one batch.
            weights: ``[G, C/G, K']``.

        Returns:
            ``[B]``; None where nothing of the layer is in the block.
        """
        if self._positions(block) == 1:
            sides = ((d[:, :, 0].square_(), a[:, :, 0].square_()) for d, a in self._sides(block))
            parts = [((d.transpose(0, 1) @ weights) * a.transpose(0, 1)).sum((0, 2)) for d, a in sides]
        else:
            parts = [matrices.square_().mul_(weights).sum((1, 2, 3)) for matrices in self._matrices(block)]
        return torch.cat(parts) if parts else None

    def _positions(self, block: Block) -> int | None:
        """T where rotating the factors is the cheaper way (and possible), else None."""
        if not all(name in block and block[name].mask is None for name in self._layer.names):
            return None
        form = block[self._layer.weight].form
        t, k, c = positions(form), self._layer.width, self._layer.height
        cheaper = t * (k * k + c * c) < c * k * k + c * c * k
        return t if cheaper and factors(form, self._layer.groups) is not None else None

    def _matrices(self, block: Block) -> Iterator[Tensor]:
        """The rotated gradients ``[b, G, C/G, K']``, a few samples at a time; nothing if the layer is not there."""
        if self._positions(block) is not None:
            for outputs, inputs in self._sides(block):
                yield outputs.transpose(2, 3) @ inputs
        elif any(name in block for name in self._layer.names):
            for _, matrices in self._layer.gradients(block):
                yield self._outputs.transpose(1, 2) @ times(matrices, self._inputs)

    def _sides(self, block: Block) -> Iterator[tuple[Tensor, Tensor]]:
        """The rotated factors, ``[b, G, T, C/G]`` and ``[b, G, T, K']``, a few samples at a time."""
        for outputs, inputs in factors(block[self._layer.weight].form, self._layer.groups) or ():
            # The column of ones becomes a shift, so that nobody has to write it.
            shifts = [None] * len(inputs) if self._shift is None else list(self._shift)
            pairs = zip(inputs, self._factored, shifts, strict=True)
            patches = [cross_product(a.flatten(0, 1), q, shift).unflatten(0, a.shape[:2]) for a, q, shift in pairs]
            rotated = [d @ q for d, q in zip(outputs, self._outputs, strict=True)]
            yield _stacked(rotated), _stacked(patches)


def _stacked(groups: list[Tensor]) -> Tensor:
    return groups[0].unsqueeze(1) if len(groups) == 1 else torch.stack(groups, dim=1)


def times(matrices: Tensor, rotation: Tensor) -> Tensor:
    """Matrices times one rotation, for a single group as one product instead of one per matrix.

    Args:
        matrices: ``[b, G, C, K]``.
        rotation: ``[G, K, K]``.

    Returns:
        ``[b, G, C, K]``.
    """
    if len(rotation) > 1:
        return matrices @ rotation
    return cross_product(matrices.flatten(0, 2), rotation[0].T.contiguous()).unflatten(0, matrices.shape[:3])
