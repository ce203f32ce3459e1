"""Gradients that are sums of outer products: every affine layer's weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from influence_core.gradients.forms.base import Costs, Form
from influence_core.gradients.forms.pairs import pair_sum, position_gram
from influence_core.gradients.layout import Layout


class Outer(Form):
    """``g_n = sum_t d_nt a_nt'`` for output gradients d ``[B, T, C]`` and inputs a ``[B, T, K]``."""

    def __init__(self, inputs: Tensor, outputs: Tensor, shape: tuple[int, ...]) -> None:
        """Take inputs ``[B, T, K]``, output gradients ``[B, T, C]`` and the parameter's shape, C x K in all."""
        self.inputs, self.outputs = inputs, outputs
        self.batch, self.positions, self.width = inputs.shape
        self.height = outputs.shape[2]
        self.layout = Layout.plain(shape)

    def rows(self) -> Tensor:
        """One batched matrix product, or a broadcast one for a single position."""
        if self.positions == 1:
            product = self.outputs.transpose(1, 2) * self.inputs
        else:
            product = torch.bmm(self.outputs.transpose(1, 2), self.inputs)
        return product.reshape(self.batch, -1)

    def costs(self) -> Costs:
        """Explicit T K C; ghost T^2 (K + C)."""
        t, k, c = self.positions, self.width, self.height
        pair = t * t * (k + c + 4)  # 4: multiplying and adding up the Gram matrices is memory-bound
        return Costs(explicit=t * k * c, size=k * c, pair=pair, kept=t * (k + c))

    def narrow(self, start: int, stop: int) -> Outer:
        """Slices of both factors."""
        return Outer(self.inputs[start:stop], self.outputs[start:stop], self.layout.shape)

    @classmethod
    def stack(cls, forms: Sequence[Self]) -> Self:
        """One after the other, shorter ones padded with positions of zero gradient."""
        longest = max(form.positions for form in forms)
        inputs = torch.cat([_lengthen(form.inputs, longest) for form in forms])
        outputs = torch.cat([_lengthen(form.outputs, longest) for form in forms])
        return cls(inputs, outputs, forms[0].layout.shape)

    @classmethod
    def merge(cls, uses: Sequence[Outer]) -> Outer:
        """Several uses of one parameter: more positions, so that cross terms come by themselves."""
        inputs = torch.cat([use.inputs for use in uses], dim=1)
        outputs = torch.cat([use.outputs for use in uses], dim=1)
        return cls(inputs, outputs, uses[0].layout.shape)

    def gram(self, other: Self) -> Tensor:
        """``sum_ts (a_t . a'_s)(d_t . d'_s)``."""

        def pair(some: slice) -> tuple[Tensor, Tensor]:
            return position_gram(self.inputs, other.inputs[some]), position_gram(self.outputs, other.outputs[some])

        return pair_sum(pair, self.batch, other.batch, self.positions, other.positions)

    def squared_norms(self) -> Tensor | None:
        """Through the Gram matrices of each sample's own positions, where these are few."""
        t, k, c = self.positions, self.width, self.height
        if t == 1:
            return self.inputs.square().sum((1, 2)) * self.outputs.square().sum((1, 2))
        if t * (k + c) > k * c:
            return None
        grams = torch.bmm(self.inputs, self.inputs.transpose(1, 2))
        return grams.mul_(torch.bmm(self.outputs, self.outputs.transpose(1, 2))).sum((1, 2))

    def total(self) -> Tensor:
        """One matrix product over samples and positions together."""
        return (self.outputs.flatten(0, 1).T @ self.inputs.flatten(0, 1)).reshape(self.layout.shape)

    def total_of_squares(self) -> Tensor | None:
        """With a single position, the product of squares is the square of products."""
        if self.positions != 1:
            return None
        return (self.outputs[:, 0].square().T @ self.inputs[:, 0].square()).reshape(self.layout.shape)

    def weighted_squared_norms(self, weights: Tensor) -> Tensor | None:
        """Likewise, ``d^2' W a^2``."""
        if self.positions != 1:
            return None
        matrix = weights.reshape(self.height, self.width)
        return (self.outputs[:, 0].square() @ matrix * self.inputs[:, 0].square()).sum(1)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Both factors."""
        return self.outputs, self.inputs


def _lengthen(factor: Tensor, positions: int) -> Tensor:
    missing = positions - factor.shape[1]
    return torch.nn.functional.pad(factor, (0, 0, 0, missing)) if missing else factor
