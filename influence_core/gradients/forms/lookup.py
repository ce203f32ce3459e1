"""Gradients of a table of which a sample touches a few rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from influence_core.gradients.forms.base import Costs, Form
from influence_core.gradients.forms.pairs import pair_sum, position_gram
from influence_core.gradients.layout import Layout


class Lookup(Form):
    """``g_n[i] = sum over t with ids_nt = i of d_nt``: the weight of an embedding."""

    def __init__(self, ids: Tensor, outputs: Tensor, shape: tuple[int, ...]) -> None:
        """Take ids ``[B, T]``, output gradients ``[B, T, D]`` and the table's shape ``(V, D)``."""
        self.ids, self.outputs = ids, outputs
        self.batch, self.positions, self.width = outputs.shape
        self.layout = Layout.plain(shape)

    def rows(self) -> Tensor:
        """Add every output gradient to its row of the table."""
        table = self.outputs.new_zeros(self.batch, *self.layout.shape)
        table.scatter_add_(1, self.ids[:, :, None].expand_as(self.outputs), self.outputs)
        return table.reshape(self.batch, -1)

    def costs(self) -> Costs:
        """Forming the table costs its size, since it starts as zeros."""
        size, t = self.layout.size, self.positions
        return Costs(explicit=size, size=size, pair=t * t * (self.width + 4), kept=t * (self.width + 1))

    def narrow(self, start: int, stop: int) -> Lookup:
        """Slices of ids and output gradients."""
        return Lookup(self.ids[start:stop], self.outputs[start:stop], self.layout.shape)

    @classmethod
    def stack(cls, forms: Sequence[Self]) -> Self:
        """One after the other, shorter ones padded with positions of zero gradient."""
        longest = max(form.positions for form in forms)
        pad = torch.nn.functional.pad
        ids = torch.cat([pad(form.ids, (0, longest - form.positions)) for form in forms])
        outputs = torch.cat([pad(form.outputs, (0, 0, 0, longest - form.positions)) for form in forms])
        return cls(ids, outputs, forms[0].layout.shape)

    @classmethod
    def merge(cls, uses: Sequence[Lookup]) -> Lookup:
        """Several uses of one table: more positions."""
        ids = torch.cat([use.ids for use in uses], dim=1)
        return cls(ids, torch.cat([use.outputs for use in uses], dim=1), uses[0].layout.shape)

    def gram(self, other: Self) -> Tensor:
        """``sum over t, s with ids_t = ids'_s of d_t . d'_s``."""

        def pair(some: slice) -> tuple[Tensor, Tensor]:
            left, right = self.ids.T[:, :, None, None], other.ids[some].T[None, None]
            return position_gram(self.outputs, other.outputs[some]), left == right

        return pair_sum(pair, self.batch, other.batch, self.positions, other.positions)

    def squared_norms(self) -> Tensor:
        """The same within each sample."""
        grams = torch.bmm(self.outputs, self.outputs.transpose(1, 2))
        return grams.mul_(self.ids[:, :, None] == self.ids[:, None, :]).sum((1, 2))

    def total(self) -> Tensor:
        """One table for the whole batch."""
        table = self.outputs.new_zeros(self.layout.shape)
        return table.index_add_(0, self.ids.reshape(-1), self.outputs.flatten(0, 1))
