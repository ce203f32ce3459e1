"""Gram matrices of the outputs' gradients, from which the gradient norm of every label follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from influence_core.batches import batch_size_for
from influence_core.gradients.contexts import plain_attention
from influence_core.gradients.data import Samples
from influence_core.gradients.fallback import whole_model_gradients
from influence_core.gradients.forms import Convolution, Dense, Form, Outer
from influence_core.gradients.guards import check_model
from influence_core.gradients.layout import Layout
from influence_core.gradients.memory import ROWS_BYTES, keep_freed_memory
from influence_core.gradients.plan import Plan
from influence_core.gradients.selection import Choice, Selection, select
from influence_core.gradients.sweep import DEFAULT_MEMORY_MIB, planned
from influence_core.gradients.tape import Tape
from influence_core.gradients.types import GradientError
from influence_core.models.private import private
from influence_core.progress import contained, track

Directions = Callable[[Tensor, Tensor], Tensor]
"""``(outputs [B, O], ids [B]) -> [B, m, O]``: combinations of the outputs whose gradients are wanted."""

Reduce = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(outputs [B, O], grams [B, m, m], ids [B]) -> [B, ...]``: what is kept of a batch."""


@torch.inference_mode(False)
def output_grams(
    model: nn.Module,
    data: Any,
    weights: Mapping[str, Tensor] | None = None,
    *,
    reduce: Reduce | None = None,
    directions: Directions | None = None,
    parameters: Choice = None,
    batch_size: int | None = None,
    memory_mib: float = DEFAULT_MEMORY_MIB,
) -> Tensor:
    r"""Inner products of the gradients of a sample's outputs with each other.

    With :math:`J_c` the gradient of output c in the parameters and W a diagonal metric,

    .. math:: G_{cd} = J_c^\top W J_d .

    The gradient of any loss of the outputs is a combination of the :math:`J_c`, so that
    :math:`\lVert\nabla\ell\rVert_W^2 = r^\top G\, r` with :math:`r = \partial\ell/\partial f`: one matrix answers for
    every label at once. A sample costs one forward pass and O backward passes, its layers' inputs are unfolded once for
    all outputs, and a layer with a single position never forms a gradient:
    :math:`G_{cd} = \sum_i d_{ci}\, d_{di}\, (W a^2)_i` for inputs a and output gradients d.

    Args:
        model: in eval mode and only read, with outputs [B, O]; only read.
        data: a map-style dataset of ``(input tensor, label)``, or a pair of tensors; labels are not looked at.
        weights: parameter name -> W's entries, of its shape and not negative; None for the identity.
        reduce: what is kept; by default the matrices themselves, which for many samples and outputs is a lot.
        directions: combinations of outputs to take instead of each output; m of them for each sample.
        parameters: which parameters; see ``select``.
        batch_size: samples per batch; None to fit ``memory_mib``. It does not change the result.
        memory_mib: budget in MiB for activations and gradients of a batch.

    Returns:
        ``[N, m, m]``, or ``[N, ...]`` of whatever ``reduce`` keeps.

    Raises:
        GradientError: The outputs are no matrix [B, O], or per-sample gradients are impossible.
        ValueError: The data is empty, or a parameter has no weights or weights of another shape.

    Example:
        >>> model = nn.Linear(2, 3, bias=False)
        >>> output_grams(model, (torch.tensor([[1.0, 2.0]]), torch.zeros(1)))[0]
        tensor([[5., 0., 0.],
                [0., 5., 0.],
                [0., 0., 5.]])
    """
    keep_freed_memory()
    check_model(model)
    model = private(model)
    selection = select(model, parameters)
    first = next(iter(selection.parameters.values()))
    samples = Samples(data, None, first.device, first.dtype)
    with plain_attention(), contained():
        one = _outputs_of_one(model, samples)
        outputs = one.shape[1]
        metric = _Metric(selection, weights)
        # Unequal weights: the sum of softmax outputs, say, has no gradient that a rule could be tried on.
        mixture = torch.linspace(0.5, 1.5, outputs).expand(len(samples), -1)
        plan, _ = planned(model, selection, _mixed, Samples(data, mixture, first.device, first.dtype))
        if directions is None:
            identity = torch.eye(outputs, dtype=first.dtype, device=first.device)
            directions = lambda found, ids: identity.expand(len(found), -1, -1)  # noqa: E731
        count = directions(one, torch.tensor([0])).shape[1]
        size = batch_size or batch_size_for(memory_mib, count * plan.bytes_per_sample, len(samples))
        kept = []
        with _OutputTape(model, plan.stations, plan.blocks, plan.channels_last) as tape:
            for ids in track(torch.arange(len(samples)).split(size), "gradients of the outputs"):
                inputs, _ = samples.batch(ids)
                found, rows, grams = tape.grams(inputs, ids, directions, metric)
                _add_whole_model(grams, model, plan, inputs, rows, metric)
                kept.append(grams if reduce is None else reduce(found, grams, ids))
    return torch.cat(kept)


def _mixed(outputs: Tensor, weights: Tensor) -> Tensor:
    return (outputs * weights).sum(1)  # a loss for the probe and the fallback, with float "labels"


def _outputs_of_one(model: nn.Module, samples: Samples) -> Tensor:
    with torch.no_grad():
        outputs = model(samples.batch(torch.tensor([0]))[0])
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        found = f"outputs {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise GradientError(f"the model gives {found} for one sample; expected one row of outputs, shape (1, O)")
    return outputs


class _Metric:
    """A diagonal metric with the selection's masks in it."""

    def __init__(self, selection: Selection, weights: Mapping[str, Tensor] | None) -> None:
        self._weights: dict[str, Tensor | None] = {}
        for name, parameter in selection.parameters.items():
            if weights is not None and (name not in weights or weights[name].shape != parameter.shape):
                found = tuple(weights[name].shape) if name in weights else "none"
                raise ValueError(f"the metric's weights of {name!r} are {found}, expected {tuple(parameter.shape)}")
            values = None if weights is None else weights[name].detach().to(parameter)
            if name in selection.masks:
                mask = selection.masks[name].to(parameter)
                values = mask if values is None else values * mask
            self._weights[name] = values

    def gram(self, name: str, forms: Sequence[Form]) -> Tensor:
        """The parameter's share, ``[B, m, m]``, from its gradients along m directions."""
        weights = self._weights[name]
        joint = _together(forms)
        if joint is not None and isinstance(joint.form, Outer) and joint.form.positions == 1:
            return joint.gram_of_single_positions(weights)
        roots: dict[Layout, Tensor] = {}
        parts = []
        for rows, layout in joint.rows() if joint is not None else _stacked_rows(forms):
            if weights is not None:
                if layout not in roots:
                    roots[layout] = layout.flatten(weights[None])[0].sqrt()
                rows = rows * roots[layout] if joint is None else rows.mul_(roots[layout])
            parts.append(torch.bmm(rows, rows.transpose(1, 2)))
        return torch.cat(parts)


@dataclass(frozen=True)
class _Joint:
    """m gradients of one layer that share its inputs: those of a layer with m times as many outputs."""

    form: Outer | Convolution
    directions: int
    shape: tuple[int, ...]
    groups: int = 1

    def gram_of_single_positions(self, weights: Tensor | None) -> Tensor:
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


def _together(forms: Sequence[Form]) -> _Joint | None:
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
        return _Joint(Outer(first.inputs, outputs, wide), count, shape)
    groups = first.geometry.groups
    each = [form.outputs.unflatten(1, (groups, -1)) for form in forms]  # type: ignore[attr-defined]
    outputs = torch.stack(each, dim=2).flatten(1, 3)
    return _Joint(Convolution(first.inputs, outputs, wide, first.geometry), count, shape, groups)


def _same(one: Tensor, two: Tensor) -> bool:
    if one.data_ptr() == two.data_ptr() and one.shape == two.shape and one.stride() == two.stride():
        return True
    return one.shape == two.shape and torch.equal(one, two)


def _stacked_rows(forms: Sequence[Form]) -> Iterator[tuple[Tensor, Layout]]:
    layout = Layout.plain(forms[0].layout.shape)
    yield torch.stack([form.layout.convert(form.rows(), layout) for form in forms], dim=1), layout


class _OutputTape(Tape):
    """A tape that goes back from the outputs several times."""

    def grams(
        self, inputs: Tensor, ids: Tensor, directions: Directions, metric: _Metric
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One batch: outputs ``[B, O]``, directions ``[B, m, O]``, and Gram matrices ``[B, m, m]``."""
        self._forget()
        self._batch = len(inputs)
        try:
            with torch.enable_grad():
                self._recording = True
                outputs = self.model(self._formatted(inputs))
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
            return outputs.detach(), rows, _gathered(found, metric, rows)
        finally:
            self._recording = False
            self._forget()


def _gathered(found: list[dict[str, Form]], metric: _Metric, rows: Tensor) -> Tensor:
    """The sum of the parameters' shares; a parameter without gradient along some direction has zeros there."""
    grams = rows.new_zeros(len(rows), rows.shape[1], rows.shape[1])
    with torch.no_grad():
        for name in dict.fromkeys(name for forms in found for name in forms):
            forms = [one.pop(name, None) for one in found]
            some = next(form for form in forms if form is not None)
            zeros = Dense(rows.new_zeros(len(rows), *some.layout.shape)) if None in forms else some
            grams += metric.gram(name, [zeros if form is None else form for form in forms])
    return grams


def _add_whole_model(
    grams: Tensor, model: nn.Module, plan: Plan, inputs: Tensor, rows: Tensor, metric: _Metric
) -> None:
    """Add the share of parameters whose gradients ``torch.func`` gives."""
    whole = sorted(plan.whole_model)
    if not whole:
        return
    along = [whole_model_gradients(model, whole, _mixed, inputs, r, plan.vectorised) for r in rows.unbind(1)]
    for pieces in zip(*along, strict=True):
        some = pieces[0][0]
        for name in whole:
            grams[some] += metric.gram(name, [forms[name] for _, forms in pieces])
