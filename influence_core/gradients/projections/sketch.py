"""Sketches: random signs times the gradient, folded into k buckets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from influence_core.gradients.block import SampleGradients
from influence_core.gradients.layout import Layout
from influence_core.gradients.projections.base import Projection

_AT_ONCE = 4096
"""Numbers of a row that are folded by one operation."""


@dataclass(frozen=True)
class _Block:
    """The random part for one parameter.

    Attributes:
        signs: of the entries that are folded, ``[ceil(size / p), p]``, zero beyond the end.
        shift: how far the folded buckets are rotated.
        input_signs: for a weight whose inputs are folded first, ``[ceil(K / width), width]``, else None.
    """

    signs: Tensor
    shift: int
    input_signs: Tensor | None


class SketchProjection(Projection):
    """A sparse projection with one entry per parameter entry, as accurate as a dense one (Charikar et al.).

    Entry i goes, with a random sign, to bucket ``(i + shift) mod p``, where p is the largest prime up to k (the other
    buckets stay empty) and every parameter has its own shift. With a power of two instead of a prime, entries of one
    channel would share a bucket. Entries are numbered with channels last, as convolutions' gradients are made.

    A weight with very many inputs is folded twice: each row's inputs to ``width`` buckets before the gradient is
    formed, which makes the matrix product that forms it as many times cheaper, and then all to k. ``width`` is at least
    ``input_fold`` times k, so that the second folding dominates the error.
    """

    def __init__(self, dim: int, seed: int = 0, input_fold: float = 2.0) -> None:
        """Take k, the seed and how much wider than k the first folding is.

        Raises:
            ValueError: k < 2, or ``input_fold`` < 1.
        """
        super().__init__(dim, seed)
        if dim < 2:
            raise ValueError(f"a sketch needs at least two dimensions, got dim={dim}")
        if input_fold < 1:
            raise ValueError(f"input_fold is {input_fold}; expected at least 1")
        self.modulus = next(n for n in range(dim, 1, -1) if _is_prime(n))
        start = math.ceil(input_fold * dim) + 1
        self.width = next(n for n in range(start, 2 * start + 2) if _is_prime(n))
        self._kept: dict[tuple[str, torch.device, torch.dtype], _Block] = {}

    def add(self, gradients: SampleGradients, features: Tensor) -> None:
        """Form the gradients, folding inputs first where these are many; then sign and fold."""
        block = self._block(gradients, features)
        order = _order(gradients.layout.shape)
        if block.input_signs is None:
            for some, rows in gradients.chunks():
                self._fold(gradients.layout.convert(rows, order), block, features[some])
            return
        factors = gradients.form.fast_factors() if gradients.mask is None else None
        if factors is not None and factors[2] == order:
            outputs, inputs, _ = factors
            folded = _fold_last(inputs, block.input_signs)
            product = torch.bmm(outputs.transpose(1, 2), folded)
            self._fold(product.flatten(1), block, features)
            return
        for some, rows in gradients.chunks():
            matrices = gradients.layout.convert(rows, order).reshape(len(rows), gradients.layout.shape[0], -1)
            self._fold(_fold_last(matrices, block.input_signs).flatten(1), block, features[some])

    def _fold(self, rows: Tensor, block: _Block, features: Tensor) -> None:
        """Add signed and folded rows ``[b, size]``."""
        features[:, : self.modulus] += _fold_last(rows, block.signs).roll(block.shift, dims=1)

    def _block(self, gradients: SampleGradients, like: Tensor) -> _Block:
        name, shape = gradients.name, gradients.layout.shape
        key = (f"{name}/{shape}", like.device, like.dtype)
        if key not in self._kept:
            inputs = math.prod(shape[1:])
            narrow = len(shape) > 1 and inputs >= 2 * self.width
            size = math.prod(shape) // inputs * self.width if narrow else math.prod(shape)
            shift = int(torch.randint(self.modulus, (1,), generator=self._generator(name, "shift")))
            signs = _as_buckets(self._signs(size, name), self.modulus).to(like)
            input_signs = _as_buckets(self._signs(inputs, name, "inputs"), self.width).to(like) if narrow else None
            self._kept[key] = _Block(signs, shift, input_signs)
        return self._kept[key]


def _order(shape: tuple[int, ...]) -> Layout:
    """The order in which entries are numbered: that of convolutions' patches, which have channels last."""
    return Layout(shape, (0, *range(2, len(shape)), 1)) if len(shape) > 2 else Layout.plain(shape)


def _fold_last(values: Tensor, signs: Tensor) -> Tensor:
    """``[..., size] -> [..., p]``: entries a multiple of p apart, signed and added up."""
    size, modulus = values.shape[-1], signs.shape[1]
    wide = modulus * min(max(1, _AT_ONCE // modulus), len(signs))  # several folds side by side: longer runs
    row = signs.flatten()
    folded = values.new_zeros(*values.shape[:-1], wide)
    for begin in range(0, size, wide):
        piece = values[..., begin : begin + wide]
        width = piece.shape[-1]
        folded[..., :width].addcmul_(piece, row[begin : begin + width])
    return folded.unflatten(-1, (-1, modulus)).sum(-2)


def _as_buckets(signs: Tensor, modulus: int) -> Tensor:
    return F.pad(signs, (0, -len(signs) % modulus)).reshape(-1, modulus)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))
