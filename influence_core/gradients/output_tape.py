"""A tape that goes back from the outputs several times, and what the gradients along several directions share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from influence_core.batches import batch_size_for
from influence_core.gradients.contexts import plain_attention
from influence_core.gradients.data import Data, Samples
from influence_core.gradients.fallback import whole_model_gradients
from influence_core.gradients.forms import Convolution, Dense, Form, Outer
from influence_core.gradients.guards import check_model
from influence_core.gradients.layout import Layout
from influence_core.gradients.memory import ROWS_BYTES, keep_freed_memory
from influence_core.gradients.plan import Plan
from influence_core.gradients.selection import Choice, Selection, select
from influence_core.gradients.sweep import planned
from influence_core.gradients.tape import Tape
from influence_core.gradients.types import GradientError
from influence_core.inputs import Inputs
from influence_core.losses import as_rows
from influence_core.models.private import private
from influence_core.progress import contained, track

Directions = Callable[[Tensor, Tensor], Tensor]
"""``(outputs [B, O], ids [B]) -> [B, m, O]``: combinations of the outputs whose gradients are wanted."""

T = TypeVar("T")

Gather = Callable[[list[dict[str, Form]], Tensor], T]
"""Makes something of the forms along every direction, parameter by parameter, and the directions ``[B, m, O]``."""


@dataclass(frozen=True)
class OutputBatch(Generic[T]):
    """A batch of samples whose outputs' gradients were taken.

    Attributes:
        ids: of the samples.
        outputs: ``[B, O]``, of outputs with more axes the numbers of each sample one after the other.
        rows: the directions, ``[B, m, O]``.
        gathered: what was made of the gradients with layer rules.
        inputs: of the model.
        model: a private copy.
        plan: for it.
    """

    ids: Tensor
    outputs: Tensor
    rows: Tensor
    gathered: T
    inputs: Inputs
    model: nn.Module
    plan: Plan

    def whole(self) -> Iterator[tuple[slice, str, list[Form]]]:
        """Some samples of the batch, and a parameter without a rule with its gradients along every direction."""
        names = sorted(self.plan.whole_model)
        if not names:
            return
        along = [
            whole_model_gradients(self.model, names, _mixed, self.inputs, r, self.plan.vectorised)
            for r in self.rows.unbind(1)
        ]
        for pieces in zip(*along, strict=True):
            for name in names:
                yield pieces[0][0], name, [forms[name] for _, forms in pieces]


def output_batches(
    model: nn.Module,
    data: Data,
    parameters: Choice,
    directions: Directions | None,
    batch_size: int | None,
    memory_mib: float,
) -> tuple[Selection, int, Callable[[Gather[T]], Iterator[OutputBatch[T]]]]:
    """Passes over a dataset that go back along several directions of the outputs.

    Args:
        model: in eval mode, with outputs ``[B, ...]`` of as many numbers O for every sample; it is only read.
        data: N samples, whose labels are not looked at.
        parameters: which parameters.
        directions: of the outputs; every output by itself where it is None.
        batch_size: samples per batch; None to fit ``memory_mib``.
        memory_mib: budget in MiB for activations and gradients of a batch.

    Returns:
        The selection, N, and a function that passes once over the data, batch by batch.

    Raises:
        GradientError: Samples differ in the number of their outputs, or per-sample gradients are impossible.
    """
    keep_freed_memory()
    check_model(model)
    model = private(model)
    selection = select(model, parameters)
    first = next(iter(selection.parameters.values()))
    samples = Samples(data, None, first.device, first.dtype)

    def batches(gather: Gather[T]) -> Iterator[OutputBatch[T]]:
        with torch.inference_mode(False), plain_attention(), contained():
            one = _outputs_of_one(model, samples)
            outputs = one.shape[1]
            # Unequal weights: the sum of softmax outputs, say, has no gradient that a rule could be tried on.
            mixture = torch.linspace(0.5, 1.5, outputs).expand(len(samples), -1)
            plan, _ = planned(model, selection, _mixed, Samples(data, mixture, first.device, first.dtype))
            identity = torch.eye(outputs, dtype=first.dtype, device=first.device)

            def every(found: Tensor, ids: Tensor) -> Tensor:
                _check_count(found.shape[1], outputs)
                return identity.expand(len(found), -1, -1)

            along = directions or every
            count = along(one, torch.tensor([0])).shape[1]
            size = batch_size or batch_size_for(memory_mib, count * plan.bytes_per_sample, len(samples))
            with OutputTape(model, plan.stations, plan.blocks, plan.channels_last) as tape:
                for ids in track(torch.arange(len(samples)).split(size), "gradients of the outputs"):
                    inputs, _ = samples.batch(ids)
                    found, rows, gathered = tape.along(inputs, ids, along, gather)
                    yield OutputBatch(ids, found, rows, gathered, inputs, model, plan)

    return selection, len(samples), batches


def _mixed(outputs: Tensor, weights: Tensor) -> Tensor:
    rows = as_rows(outputs)
    _check_count(rows.shape[1], weights.shape[1])
    return (rows * weights).sum(1)  # a loss for the probe and the fallback, with float "labels"


def _check_count(found: int, first: int) -> None:
    if found != first:
        raise GradientError(
            f"a sample has {found} outputs, the first one {first}: where samples differ in the number of their outputs "
            "(a sequence of them, say) there is no matrix of all; give the model one row of outputs for each sample"
        )


def _outputs_of_one(model: nn.Module, samples: Samples) -> Tensor:
    with torch.no_grad():
        outputs = model(samples.batch(torch.tensor([0]))[0])
    if not isinstance(outputs, Tensor) or outputs.shape[:1] != (1,):
        found = f"outputs {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise GradientError(f"the model gives {found} for one sample; expected one row of outputs, shape (1, ...)")
    return as_rows(outputs)


class OutputTape(Tape):
    """A tape that goes back from the outputs several times."""

    def along(self, inputs: Inputs, ids: Tensor, directions: Directions, gather: Gather[T]) -> tuple[Tensor, Tensor, T]:
        """One batch.

        Args:
            inputs: ``[B, ...]``.
            ids: of the samples.
            directions: of the outputs, m for each sample.
            gather: takes the forms along each direction, parameter by parameter, and the directions ``[B, m, O]``.

        Returns:
            Outputs ``[B, O]``, directions ``[B, m, O]``, and what ``gather`` made.
        """
        self._forget()
        self._batch = len(inputs)
        try:
            with torch.enable_grad():
                self._recording = True
                outputs = as_rows(self.model(self._formatted(inputs)))
                self._recording = False
                rows = directions(outputs.detach(), ids).to(outputs.dtype)
                calls = [(entry, entry.args, entry.kwargs) for entry in self._records]
                found: list[dict[str, Form]] = []
                for direction in rows.unbind(1):
                    for entry, args, kwargs in calls:
                        entry.args, entry.kwargs = args, kwargs
                        entry.gradients = [None] * len(entry.gradients)
                    self._uses, self._open = {}, {}
                    found.append({})
                    self._deliver = found[-1].update
                    self._open_blocks()
                    if outputs.requires_grad and self._leaves:
                        last = len(found) == rows.shape[1]
                        torch.autograd.grad(outputs, self._leaves, direction, allow_unused=True, retain_graph=not last)
                    self._close_blocks()
            with torch.no_grad():
                return outputs.detach(), rows, gather(found, rows)
        finally:
            self._recording = False
            self._forget()


def by_parameter(found: list[dict[str, Form]], rows: Tensor) -> Iterator[tuple[str, list[Form]]]:
    """Parameter by parameter its gradients along every direction, which are let go; zeros where there is none.

    Args:
        found: along each direction the forms of the parameters that it reaches.
        rows: a tensor of the batch's type, ``[B, ...]``.

    Yields:
        Name and forms.
    """
    for name in dict.fromkeys(name for forms in found for name in forms):
        forms = [one.pop(name, None) for one in found]
        some = next(form for form in forms if form is not None)
        zeros = Dense(rows.new_zeros(len(rows), *some.layout.shape)) if None in forms else some
        yield name, [zeros if form is None else form for form in forms]


@dataclass(frozen=True)
class Joint:
    """m gradients of one layer that share its inputs: those of a layer with m times as many outputs.

    Attributes:
        form: of that layer.
        directions: m.
        shape: of the weight.
        groups: of a convolution.
    """

    form: Outer | Convolution
    directions: int
    shape: tuple[int, ...]
    groups: int = 1

    def gram_of_single_positions(self, weights: Tensor | None) -> Tensor:
        """Gram matrices ``[B, m, m]`` under a diagonal metric, where there is one position."""
        form = self.form
        outputs = form.outputs.reshape(form.batch, self.directions, -1)
        squares = form.inputs[:, 0].square()
        if weights is None:
            return torch.bmm(outputs, outputs.transpose(1, 2)) * squares.sum(1)[:, None, None]
        scales = squares @ weights.reshape(self.shape[0], -1).T
        return torch.bmm(outputs * scales[:, None], outputs.transpose(1, 2))

    def rows(self) -> Iterator[tuple[Tensor, Layout]]:
        """Explicit gradients ``[b, m, P]``, new tensors, of a few samples at a time."""
        form, entries = self.form, self.directions * math.prod(self.shape)
        at_once = max(1, ROWS_BYTES // (form.outputs.element_size() * entries))
        for start in range(0, form.batch, at_once):
            piece = form.narrow(start, min(start + at_once, form.batch))
            yield self._split(piece.rows(), piece.layout)

    def _split(self, rows: Tensor, layout: Layout) -> tuple[Tensor, Layout]:
        if self.groups == 1 and layout.order[0] == 0:
            return rows.reshape(len(rows), self.directions, -1), Layout(self.shape, layout.order)
        each = self.shape[0] // self.groups
        kernels = layout.unflatten(rows).reshape(len(rows), self.groups, self.directions, each, *self.shape[1:])
        return kernels.transpose(1, 2).reshape(len(rows), self.directions, -1), Layout.plain(self.shape)


def together(forms: Sequence[Form]) -> Joint | None:
    """The gradients along several directions as one, where they share their inputs."""
    first = forms[0]
    if not isinstance(first, Outer | Convolution) or first.height != first.layout.shape[0]:
        return None
    for other in forms[1:]:
        if type(other) is not type(first) or not _same(other.inputs, first.inputs):
            return None
    shape, count = first.layout.shape, len(forms)
    wide = (count * shape[0], *shape[1:])
    if isinstance(first, Outer):
        outputs = torch.cat([form.outputs for form in forms], dim=2)  # type: ignore[attr-defined]
        return Joint(Outer(first.inputs, outputs, wide), count, shape)
    groups = first.geometry.groups
    each = [form.outputs.unflatten(1, (groups, -1)) for form in forms]  # type: ignore[attr-defined]
    outputs = torch.stack(each, dim=2).flatten(1, 3)
    return Joint(Convolution(first.inputs, outputs, wide, first.geometry), count, shape, groups)


def _same(one: Tensor, two: Tensor) -> bool:
    if one.data_ptr() == two.data_ptr() and one.shape == two.shape and one.stride() == two.stride():
        return True
    return one.shape == two.shape and torch.equal(one, two)


def stacked_rows(forms: Sequence[Form]) -> Iterator[tuple[Tensor, Layout]]:
    """Explicit gradients ``[B, m, P]`` along several directions that share nothing."""
    layout = Layout.plain(forms[0].layout.shape)
    yield torch.stack([form.layout.convert(form.rows(), layout) for form in forms], dim=1), layout
