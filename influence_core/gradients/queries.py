"""Queries: what every sample's gradient is multiplied by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from influence_core.gradients.block import Block, SampleGradients, SweepContext
from influence_core.gradients.cost import prefers_ghost
from influence_core.gradients.data import Data
from influence_core.gradients.forms import Form
from influence_core.gradients.layout import Layout
from influence_core.gradients.linalg import long_cross_product
from influence_core.gradients.types import Loss


class Queries:
    """M gradients, or M vectors of the same shapes, kept per parameter in the form that makes products cheapest.

    Build them with ``record`` or ``from_vectors``.

    Attributes:
        count: M.
        names: parameters that the queries have entries for.

    Example:
        >>> import torch
        >>> queries = Queries.from_vectors({"weight": torch.ones(3, 1, 2)})
        >>> queries.count, queries.names
        (3, ('weight',))
    """

    def __init__(self, count: int, forms: dict[str, Form], rows: dict[str, tuple[Layout, Tensor]]) -> None:
        """Take M, the ghost forms and the explicit rows ``[M, P]``; every parameter in one of the two."""
        self.count, self._forms, self._rows = count, forms, rows
        self.names = (*forms, *rows)

    @classmethod
    def record(cls, model: nn.Module, loss: Loss, data: Data, **options: Any) -> Queries:
        """The gradients of a dataset.

        Args:
            model: in eval mode; it is only read.
            loss: one loss per sample.
            data: M samples.
            **options: of ``sweep``: parameters, batch_size, memory_mib, labels.

        Returns:
            The queries.
        """
        from influence_core.gradients.sweep import sweep  # a sweep serves consumers, of which this makes one

        recorder = _QueryRecorder()
        sweep(model, loss, data, [recorder], **options)
        return recorder.result()

    @classmethod
    def from_vectors(cls, vectors: Mapping[str, Tensor]) -> Queries:
        """Given vectors, say preconditioned gradients.

        Args:
            vectors: parameter name -> ``[M, *shape]``. Parameters left out count as zero.

        Returns:
            The queries.

        Raises:
            ValueError: The vectors disagree about M, or there are none.
        """
        counts = {name: len(vector) for name, vector in vectors.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"expected tensors [M, *shape] with one M for all parameters, got {counts or 'none'}")
        rows = {
            name: (Layout.plain(tuple(vector.shape[1:])), vector.detach().reshape(len(vector), -1))
            for name, vector in vectors.items()
        }
        return cls(next(iter(counts.values())), {}, rows)

    def check(self, context: SweepContext) -> None:
        """Refuse a sweep that these queries do not fit.

        Raises:
            ValueError: A parameter's shape differs, or a query has entries for one that the sweep does not choose.
        """
        for name in self.names:
            if name not in context.shapes:
                raise ValueError(
                    f"the queries have entries for {name!r}, which the sweep does not choose; "
                    "use the same parameters for both"
                )
            form = self._forms.get(name)
            layout = self._rows[name][0] if form is None else form.layout
            if layout.shape != tuple(context.shapes[name]):
                raise ValueError(
                    f"the queries' {name!r} has shape {layout.shape}, the model's {tuple(context.shapes[name])}"
                )

    def products(self, gradients: SampleGradients, out: Tensor) -> None:
        """Add one parameter's inner products ``[B, M]`` to ``out``."""
        name = gradients.name
        ghost = self._forms.get(name)
        if ghost is not None and gradients.mask is None and gradients.form.matches(ghost):
            out += gradients.form.gram(ghost)
        elif name in self.names:
            rows_of_queries = self._explicit(name, gradients.layout)
            for some, rows in gradients.chunks():
                out[some] += long_cross_product(rows, rows_of_queries)

    def _explicit(self, name: str, layout: Layout) -> Tensor:
        """The rows of one parameter in this order; kept in it, since it will be asked for again."""
        # Two threads may do the same work here, and get the same: rows are there before their form goes.
        form = self._forms.get(name)
        if form is not None:
            self._rows[name] = (form.layout, form.rows())
            self._forms.pop(name, None)
        have, rows = self._rows[name]
        if have != layout:
            rows = have.convert(rows, layout)
            self._rows[name] = (layout, rows)
        return rows


class _QueryRecorder:
    """Keeps what arrives, in the form that the cost model chooses."""

    def start(self, context: SweepContext) -> None:
        self._context = context
        self._forms: dict[str, list[tuple[int, Form]]] = {}
        self._rows: dict[str, tuple[Layout, Tensor]] = {}

    def consume(self, block: Block) -> None:
        for name, gradients in block.items():
            if name not in self._rows and name not in self._forms:
                ghost = gradients.mask is None and prefers_ghost(gradients.form.costs(), self._context.samples)
                if ghost:
                    self._forms[name] = []
                else:
                    rows = torch.zeros(
                        self._context.samples,
                        gradients.layout.size,
                        device=self._context.device,
                        dtype=self._context.dtype,
                    )
                    self._rows[name] = (gradients.layout, rows)
            if name in self._forms:
                self._forms[name].append((block.samples.start, gradients.form))
            else:
                layout, rows = self._rows[name]
                for some, piece in gradients.chunks():
                    begin = block.samples.start + some.start
                    rows[begin : begin + len(piece)] = gradients.layout.convert(piece, layout)

    def finish(self) -> None:
        total = self._context.samples
        stacked: dict[str, Form] = {}
        for name, pieces in self._forms.items():
            forms = [form for _, form in pieces]
            if all(form.matches(forms[0]) for form in forms) and sum(form.batch for form in forms) == total:
                stacked[name] = type(forms[0]).stack(forms)
            else:  # a layer that was not called for some of the batches, or that had inputs of another size
                layout = Layout.plain(tuple(self._context.shapes[name]))
                rows = torch.zeros(total, layout.size, device=self._context.device, dtype=self._context.dtype)
                for begin, form in pieces:
                    rows[begin : begin + form.batch] = form.layout.convert(form.rows(), layout)
                self._rows[name] = (layout, rows)
        self._queries = Queries(total, stacked, self._rows)

    def result(self) -> Queries:
        return self._queries
