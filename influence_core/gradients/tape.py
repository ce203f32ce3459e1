"""The tape: one forward and one backward pass that hand every layer's inputs and output gradients to its rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from influence_core.gradients.contexts import no_autocast
from influence_core.gradients.forms import Form, merge
from influence_core.gradients.rules import Call, Rule, output_tensors
from influence_core.gradients.types import GradientError, Loss
from influence_core.inputs import Inputs

Deliver = Callable[[dict[str, Form]], None]


@dataclass
class Station:
    """A module whose calls are recorded, and what is done with them.

    Attributes:
        name: the module's name in the model.
        module: the module.
        rule: from a call to forms.
        wanted: names within the module -> names in the model, of the parameters that the rule shall give.
        features_last: whether samples may stand on another axis than the first.
        batched: for the fallback: which flattened arguments run over samples. Learned from the probe.
        arrangement: where the samples stand in the module's tensors: on the ``"first"`` axis, on the ``"second"``,
            or on the first together with others (``"folded"``). Learned from the probe.
        alike: of a module whose input is the same for all samples (the places of words, say), number of the input's
            axes, negative where the first is an axis of one for the samples. Learned from the probe.
        spread: whether such calls are recorded as those of every sample by itself, for the sum over samples is all
            that would come back otherwise. The module's output then has the samples on a first axis.
    """

    name: str
    module: nn.Module
    rule: Rule
    wanted: dict[str, str]
    features_last: bool = False
    batched: tuple[bool, ...] = ()
    arrangement: str | None = None
    alike: int = 0
    spread: bool = False


@dataclass
class _Record:
    """A call between its forward and its backward."""

    station: Station
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    versions: tuple[int, ...]
    gradients: list[Tensor | None]


class _Fresh(torch.autograd.Function):
    """The identity, off a new leaf: makes a graph start at a layer's output, which may then be changed in place."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor, value: Tensor) -> Tensor:
        """Pass ``value`` on; ``leaf`` is there to require a gradient."""
        ctx.mark_dirty(value)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Nobody asks for the leaf's gradient beyond its existence."""
        return gradients[0].new_zeros(()), None


@dataclass
class Tape:
    """Records a model while the context is open; see ``run``.

    The parameters are frozen: autograd then never forms the weight gradients of the batch, which is a third of an
    ordinary step. So the model has to be the caller's own (``influence_core.models.private``).

    Attributes:
        model: a private model, in eval mode; its parameters stay frozen.
        stations: the modules to record.
        blocks: names of parameters that are to be delivered together.
        channels_last: whether images travel through the model with channels last.
    """

    model: nn.Module
    stations: Sequence[Station]
    blocks: Sequence[Sequence[str]]
    channels_last: bool = False
    _recording: bool = False
    _records: list[_Record] = field(default_factory=list)
    _leaves: list[Tensor] = field(default_factory=list)
    _handles: list[Any] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Freeze, and hook."""
        self._block_of = {name: block for block in self.blocks for name in block}
        self.model.requires_grad_(False)
        if self.channels_last:
            for module in self.model.modules():
                if isinstance(module, nn.Conv2d):
                    self._handles.append(module.register_forward_hook(self._to_channels_last))
        for station in self.stations:
            hook = self._hook(station)
            self._handles.append(station.module.register_forward_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *error: object) -> None:
        """Take the hooks away, so that another tape can be tried on the same model."""
        self._forget()
        for handle in self._handles:
            handle.remove()

    def run(self, inputs: Inputs, labels: Any, loss: Loss, deliver: Deliver) -> Tensor:
        """One batch: forward, backward, and every block of parameters delivered as soon as its layers are through.

        Args:
            inputs: ``[B, ...]``.
            labels: ``[B, ...]``.
            loss: one loss per sample.
            deliver: called for every block in ``blocks`` that the losses depend on, with name -> form.

        Returns:
            The losses ``[B]``, detached.

        Raises:
            GradientError: The loss does not give one value per sample, or a recorded tensor was changed in place.
        """
        self._forget()
        self._batch = len(inputs)
        self._deliver = deliver
        try:
            with torch.enable_grad():
                self._recording = True
                outputs = self.model(self._formatted(inputs))
                self._recording = False
                losses = loss(outputs, labels)
                check_losses(losses, len(inputs))
                self._open_blocks()
                if losses.requires_grad and self._leaves:
                    torch.autograd.grad(losses.sum(), self._leaves, allow_unused=True)
                self._close_blocks()
            return losses.detach()
        finally:
            self._recording = False
            self._forget()

    def _formatted(self, inputs: Inputs) -> Inputs:
        if self.channels_last and isinstance(inputs, Tensor) and inputs.dim() == 4:
            return inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def _forget(self) -> None:
        self._records, self._leaves = [], []
        self._uses: dict[str, list[Form]] = {}
        self._open: dict[str, int] = {}

    # Forward

    def _hook(self, station: Station) -> Callable[..., Any]:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> Any:
            if not (self._recording and torch.is_grad_enabled()):
                return None
            if station.spread:
                args, kwargs, outputs = _spread(station, args, kwargs, outputs, self._batch)
            if isinstance(outputs, Tensor):
                outputs = outputs if outputs.requires_grad else self._fresh(outputs)
                tensors = [outputs]
            else:
                replaced = {id(t): self._fresh(t) for t in output_tensors(outputs) if not t.requires_grad}
                outputs = pytree.tree_map(lambda leaf: replaced.get(id(leaf), leaf), outputs)
                tensors = output_tensors(outputs)
            args, kwargs = pytree.tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, (args, kwargs))
            entry = _Record(station, args, kwargs, _versions(args, kwargs), [None] * len(tensors))
            self._records.append(entry)
            for index, tensor in enumerate(tensors):
                tensor.register_hook(self._receiver(entry, index))
            return outputs

        return record

    def _to_channels_last(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """A convolution answers in its weight's format where the input's is ambiguous (one channel, one pixel)."""
        if self._recording and isinstance(output, Tensor) and output.dim() == 4:
            return output.contiguous(memory_format=torch.channels_last)
        return None

    def _fresh(self, value: Tensor) -> Tensor:
        leaf = torch.zeros((), device=value.device, dtype=value.dtype, requires_grad=True)
        self._leaves.append(leaf)
        # Detached, because a view that is passed on as changed would drag its base into the graph.
        return _Fresh.apply(leaf, value.detach())

    # Backward

    def _receiver(self, entry: _Record, index: int) -> Callable[[Tensor], None]:
        def receive(gradient: Tensor) -> None:
            entry.gradients[index] = gradient.detach()
            if len(entry.gradients) == 1:
                self._consume(entry)

        return receive

    def _open_blocks(self) -> None:
        """Count, for every parameter, the calls that are still to come back."""
        for entry in self._records:
            for name in entry.station.wanted.values():
                self._open[name] = self._open.get(name, 0) + 1

    def _close_blocks(self) -> None:
        """Whatever did not come back has no gradient: deliver what is left."""
        for entry in self._records:
            if len(entry.gradients) > 1 and any(gradient is not None for gradient in entry.gradients):
                self._consume(entry)
        for block in self.blocks:
            self._deliver_block(block)

    def _consume(self, entry: _Record) -> None:
        if _versions(entry.args, entry.kwargs) != entry.versions:
            raise GradientError(
                f"the input of {entry.station.name!r} was changed in place after the module had used it; "
                "change the model to write x = x + y instead of x += y there"
            )
        with torch.no_grad(), no_autocast():
            for local, form in _forms(entry, self._batch):
                self._uses.setdefault(entry.station.wanted[local], []).append(form)
        entry.args, entry.kwargs, entry.gradients = (), {}, [None] * len(entry.gradients)
        for name in entry.station.wanted.values():
            self._open[name] -= 1
        block = self._block_of[next(iter(entry.station.wanted.values()))]
        if not any(self._open.get(name) for name in block):
            self._deliver_block(block)

    def _deliver_block(self, block: Sequence[str]) -> None:
        forms = {name: merge(self._uses.pop(name)) for name in block if name in self._uses}
        if forms:
            with torch.no_grad(), no_autocast():
                self._deliver(forms)


def _spread(
    station: Station, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any, batch: int
) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """A call on what all samples share, as one call for each of them."""
    (given,) = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    axis = station.alike < 0  # of one, for the samples
    if given.dim() != abs(station.alike) or (axis and given.shape[0] == batch):
        return args, kwargs, outputs  # what came in was spread before

    def of_each(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.expand(batch, *value.shape[1 if axis else 0 :]).clone()

    args, kwargs = pytree.tree_map(of_each, (args, kwargs))
    return args, kwargs, of_each(outputs)


def check_losses(losses: Any, batch: int) -> None:
    """Refuse anything but one loss per sample.

    Raises:
        GradientError: With the shape found, the shape expected, and what to write.
    """
    if not isinstance(losses, Tensor) or tuple(losses.shape) != (batch,):
        found = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise GradientError(
            f"the loss gave {found} for a batch of {batch}; expected one value per sample, shape ({batch},): "
            'write reduction="none", and sum over anything but samples'
        )


class RuleError(GradientError):
    """A rule could not make sense of a call; ``station`` is where."""

    def __init__(self, station: Station, cause: Exception) -> None:
        """Name the module and keep the cause's words."""
        super().__init__(f"the per-sample rule of {station.name!r} ({type(station.module).__name__}) failed: {cause}")
        self.station = station


def _forms(entry: _Record, batch: int) -> list[tuple[str, Form]]:
    station = entry.station
    try:
        call = _arranged(entry, batch)
        forms = list(station.rule(station.module, call, frozenset(station.wanted)))
        for local, form in forms:
            if form.batch != batch:
                raise ValueError(f"it gave gradients of {local!r} for {form.batch} samples, expected {batch}")
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
        raise RuleError(station, error) from error
    return forms


def _arranged(entry: _Record, batch: int) -> Call:
    station = entry.station

    def samples_first(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if station.arrangement == "folded":
            return value.unflatten(0, (batch, -1))
        return value.movedim(1, 0) if station.arrangement == "second" else value

    gradients = tuple(samples_first(gradient) for gradient in entry.gradients)
    if station.arrangement in ("folded", "second"):
        args = tuple(samples_first(value) for value in entry.args)
        kwargs = {name: samples_first(value) for name, value in entry.kwargs.items()}
        return Call(args, kwargs, gradients, batch)
    return Call(entry.args, entry.kwargs, gradients, batch, station.batched)


def _versions(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    leaves = pytree.tree_leaves((args, dict(kwargs)))
    return tuple(leaf._version for leaf in leaves if isinstance(leaf, Tensor) and not leaf.is_inference())
