"""Sketches: random signs times the gradient, folded into k buckets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from influence_core.gradients.block import SampleGradients
from influence_core.gradients.projections.base import Projection

_FOLD_FLOATS = 2**18
"""Rows are multiplied by signs and folded in pieces of about this many numbers, which stay in cache."""


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
    channel would share a bucket.

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
        if block.input_signs is None:
            for some, rows in gradients.chunks():
                plain = gradients.layout.unflatten(rows).reshape(len(rows), -1)
                self._fold(plain, block, features[some])
            return
        factors = gradients.form.factors() if gradients.mask is None else None
        if factors is not None:
            outputs, inputs = factors
            folded = _fold_last(inputs, block.input_signs)
            product = torch.bmm(outputs.transpose(1, 2), folded)
            self._fold(product.flatten(1), block, features)
            return
        for some, rows in gradients.chunks():
            matrices = gradients.layout.unflatten(rows).reshape(len(rows), gradients.layout.shape[0], -1)
            self._fold(_fold_last(matrices, block.input_signs).flatten(1), block, features[some])

    def _fold(self, rows: Tensor, block: _Block, features: Tensor) -> None:
        """Add signed and folded rows ``[b, size]``."""
        at_once = max(1, _FOLD_FLOATS // max(1, rows.shape[1]))
        for begin in range(0, len(rows), at_once):
            folded = _fold_last(rows[begin : begin + at_once], block.signs).roll(block.shift, dims=1)
            features[begin : begin + at_once, : self.modulus] += folded

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


def _fold_last(values: Tensor, signs: Tensor) -> Tensor:
    """``[..., size] -> [..., p]``: entries a multiple of p apart, signed and added up."""
    whole = values.shape[-1] // signs.shape[1]
    rest = values.shape[-1] - whole * signs.shape[1]
    body = values[..., : whole * signs.shape[1]].unflatten(-1, (whole, signs.shape[1]))
    folded = (body * signs[:whole]).sum(-2)
    if rest:  # apart, so that nothing is copied for the sake of padding
        folded[..., :rest] += values[..., -rest:] * signs[whole, :rest]
    return folded


def _as_buckets(signs: Tensor, modulus: int) -> Tensor:
    return F.pad(signs, (0, -len(signs) % modulus)).reshape(-1, modulus)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))
