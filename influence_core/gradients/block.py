"""What consumers are handed: the per-sample gradients of the parameters of one layer, for one batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from influence_core.gradients.forms import Form
from influence_core.gradients.layout import Layout
from influence_core.gradients.memory import ROWS_BYTES


class SampleGradients:
    """One parameter's gradients for a batch; formed at most once, and only if somebody asks.

    Attributes:
        name: the parameter's name.
        form: how the gradients were recorded. Does not know of the mask.
        mask: which entries count, of the parameter's shape, or None for all.
    """

    def __init__(self, name: str, form: Form, mask: Tensor | None = None, itemsize: int = 4) -> None:
        """See the class; ``itemsize`` is the number of bytes of an entry."""
        self.name, self.form, self.mask = name, form, mask
        self.layout: Layout = form.layout
        self.batch = form.batch
        self._at_once = max(1, ROWS_BYTES // (itemsize * max(1, self.layout.size)))
        self._rows: Tensor | None = None

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Explicit gradients, of a few samples at a time.

        Yields:
            Which samples, and their rows ``[b, P]`` in the order of ``layout``; shared between consumers, so do not
            write into them.
        """
        if self.batch <= self._at_once:
            if self._rows is None:
                self._rows = self._masked(self.form.rows())
            yield slice(0, self.batch), self._rows
            return
        for start in range(0, self.batch, self._at_once):
            stop = min(start + self._at_once, self.batch)
            yield slice(start, stop), self._masked(self.form.narrow(start, stop).rows())

    def _masked(self, rows: Tensor) -> Tensor:
        return rows if self.mask is None else rows * self.layout.flatten(self.mask[None]).to(rows.dtype)

    def squared_norms(self) -> Tensor:
        """Squared norms, ``[B]``."""
        norms = self.form.squared_norms() if self.mask is None and self._rows is None else None
        if norms is None:
            norms = torch.cat([torch.linalg.vector_norm(rows, dim=1).square_() for _, rows in self.chunks()])
        return norms

    def weighted_squared_norms(self, weights: Tensor) -> Tensor:
        """``sum_i w_i g_i^2`` for weights of the parameter's shape, ``[B]``."""
        norms = self.form.weighted_squared_norms(weights) if self.mask is None else None
        if norms is None:
            vector = self.layout.flatten(weights[None])[0]
            norms = torch.cat([_weighted_square_sums(rows, vector) for _, rows in self.chunks()])
        return norms

    def total(self) -> Tensor:
        """Sum over the batch, of the parameter's shape."""
        total = self.form.total() if self._rows is None else None
        if total is not None:
            return total if self.mask is None else total * self.mask
        return self.layout.unflatten(sum_rows(rows.sum(0) for _, rows in self.chunks())[None])[0]

    def total_of_squares(self) -> Tensor:
        """Sum over the batch of squared entries, of the parameter's shape."""
        total = self.form.total_of_squares()
        if total is not None:
            return total if self.mask is None else total * self.mask
        row: Tensor | None = None
        for _, rows in self.chunks():
            row = rows.new_zeros(self.layout.size) if row is None else row
            for sample in rows:  # one at a time, the sums stay in cache: three times as fast as squaring all of them
                row.addcmul_(sample, sample)
        assert row is not None, "a batch has at least one sample"
        return self.layout.unflatten(row[None])[0]


def sum_rows(parts: Iterator[Tensor]) -> Tensor:
    """The sum of at least one tensor."""
    total = next(parts)
    for part in parts:
        total = total + part
    return total


def _weighted_square_sums(rows: Tensor, weights: Tensor) -> Tensor:
    # A few rows at a time: the squares are then still in cache when they meet the weights.
    at_once = max(1, 2**18 // max(1, rows.shape[1]))
    return torch.cat([piece.square() @ weights for piece in rows.split(at_once)])


class Block(Mapping[str, SampleGradients]):
    """Name -> per-sample gradients, for parameters of one layer, and which samples these are.

    Attributes:
        samples: the samples' places in the sweep.
    """

    def __init__(self, gradients: dict[str, SampleGradients], samples: slice) -> None:
        """See the class."""
        self._gradients, self.samples = gradients, samples

    def __getitem__(self, name: str) -> SampleGradients:
        """The gradients of one parameter."""
        return self._gradients[name]

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self._gradients)

    def __len__(self) -> int:
        """Number of parameters."""
        return len(self._gradients)


@dataclass(frozen=True)
class SweepContext:
    """What a consumer learns before the first batch.

    Attributes:
        samples: number of samples N.
        shapes: name -> shape, of the parameters chosen.
        masks: name -> boolean mask, where only some entries are chosen.
        blocks: names that arrive together.
        device: where gradients are.
        dtype: their type.
    """

    samples: int
    shapes: Mapping[str, tuple[int, ...]]
    masks: Mapping[str, Tensor]
    blocks: tuple[tuple[str, ...], ...]
    device: torch.device
    dtype: torch.dtype


class Consumer(Protocol):
    """Something that a sweep serves. Blocks come in any order, each parameter and sample at most once.

    Derive from it, and there is no need for a ``finish`` that does nothing. A parameter of which nothing arrives for a
    sample has a gradient of zero for it.
    """

    def start(self, context: SweepContext) -> None:
        """Make room."""

    def consume(self, block: Block) -> None:
        """Take what is needed; keep no reference to rows."""

    def finish(self) -> None:
        """All samples are through; by default there is nothing left to do."""
        return
