"""The sweep: one pass over a dataset that serves any number of consumers."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from influence_core.batches import batch_size_for
from influence_core.gradients.block import Block, Consumer, SampleGradients, SweepContext
from influence_core.gradients.contexts import plain_attention
from influence_core.gradients.coverage import RuleCoverage
from influence_core.gradients.data import Data, Samples
from influence_core.gradients.fallback import whole_model_gradients
from influence_core.gradients.forms import Form
from influence_core.gradients.guards import check_model
from influence_core.gradients.memory import keep_freed_memory
from influence_core.gradients.plan import Plan, make_plan
from influence_core.gradients.probe import probe
from influence_core.gradients.selection import Choice, Selection, select
from influence_core.gradients.sharing import Request, key_of, meeting
from influence_core.gradients.tape import Tape
from influence_core.gradients.types import Loss
from influence_core.identity import identify
from influence_core.models.private import private
from influence_core.progress import contained, track

DEFAULT_MEMORY_MIB = 256.0


@dataclass(frozen=True)
class SweepReport:
    """What a sweep did.

    Attributes:
        samples: number of samples N.
        losses: loss of every sample, ``[N]``.
        coverage: which parameters were used, and how.
        batch_size: samples per batch.
        seconds: wall-clock time.
    """

    samples: int
    losses: Tensor
    coverage: RuleCoverage
    batch_size: int
    seconds: float


def sweep(
    model: nn.Module,
    loss: Loss,
    data: Data,
    consumers: Sequence[Consumer],
    *,
    parameters: Choice = None,
    batch_size: int | None = None,
    memory_mib: float = DEFAULT_MEMORY_MIB,
    labels: Tensor | None = None,
) -> SweepReport:
    """Pass once over a dataset, in its order, and hand every sample's gradient to every consumer.

    The model must be in eval mode. It is only read: the passes run on a private copy of it, so that any number of
    threads may sweep over one model, and nothing is left behind by an exception. Progress is reported batch by batch
    (``influence_core.progress``). Results do not depend on the batch size. Call it under ``torch.autocast`` for a
    forward pass in bfloat16; gradients are then still kept and multiplied in the parameters' type.

    Before the first batch two samples are tried against plain autograd (see ``probe``). Control flow that uses a
    parameter outside its module for other samples only would escape that check.

    In work that joined a ``Meeting`` it may be made together with the equal sweeps of others; see ``sharing``.

    Args:
        model: in eval mode; it is only read.
        loss: ``loss(outputs, labels) -> [B]``, one value per sample.
        data: a map-style dataset of ``(input tensor, label)``, or a pair of tensors; a method
            ``batch(ids) -> (inputs, labels)`` is used where there is one.
        consumers: what to compute; read their ``result()`` afterwards.
        parameters: which parameters; see ``select``.
        batch_size: samples per batch; None to fit ``memory_mib``.
        memory_mib: budget in MiB for activations and gradients of a batch, the consumers' results aside.
        labels: labels ``[N, ...]`` to use instead of the data's own.

    Returns:
        Losses, coverage, batch size and seconds.

    Raises:
        MixedSamplesError: A module or the loss mixes samples.
        GradientError: Something else makes per-sample gradients impossible; the message names it.
        SelectionError: The selection does not fit the model.
        ValueError: The data is empty, or its labels are not as many as its samples.
    """

    def run(consumers: Sequence[Consumer]) -> SweepReport:
        return _swept(model, loss, data, consumers, parameters, batch_size, memory_mib, labels)

    others = meeting()
    if others is None:
        return run(consumers)
    key = _key(model, loss, data, parameters, batch_size, labels)
    first = next(model.parameters())
    rank = (labels is None, len(Samples(data, None, first.device, first.dtype)))
    report: SweepReport = others.sweep(Request(key, rank, consumers, run))
    return report


def _key(
    model: nn.Module, loss: Loss, data: Data, parameters: Choice, batch_size: int | None, labels: Tensor | None
) -> Hashable:
    """Equal for sweeps that see the same gradients."""
    who = identify(model, "the model")
    selection = select(model, parameters)
    parts = (tuple(selection.parameters), id(selection) if selection.masks else None, batch_size, key_of(labels))
    content = getattr(data, "fingerprint", None)
    return id(model) if who.unknown else who.sha256, id(loss), content or id(data), parts


@torch.inference_mode(False)
def _swept(
    model: nn.Module,
    loss: Loss,
    data: Data,
    consumers: Sequence[Consumer],
    parameters: Choice,
    batch_size: int | None,
    memory_mib: float,
    labels: Tensor | None,
) -> SweepReport:
    begun = time.perf_counter()
    keep_freed_memory()
    check_model(model)
    model = private(model)
    selection = select(model, parameters)
    trainable = _trainable(model)
    first = next(iter(selection.parameters.values()))
    samples = Samples(data, labels, first.device, first.dtype)
    with plain_attention(), contained():
        plan, norm_selected = planned(model, selection, loss, samples)
        size = batch_size or batch_size_for(memory_mib, plan.bytes_per_sample, len(samples))
        context = make_context(selection, plan, len(samples))
        losses = torch.zeros(len(samples), device=context.device, dtype=context.dtype)
        for consumer in consumers:
            consumer.start(context)
        whole = sorted(plan.whole_model)
        with Tape(model, plan.stations, plan.blocks, plan.channels_last) as tape:
            for ids in track(torch.arange(len(samples)).split(size), "per-sample gradients"):
                inputs, targets = samples.batch(ids)
                begin, end = int(ids[0]), int(ids[-1]) + 1
                losses[begin:end] = tape.run(inputs, targets, loss, _Delivery(consumers, selection, begin, end))
                if whole:
                    for some, forms in whole_model_gradients(model, whole, loss, inputs, targets, plan.vectorised):
                        _Delivery(consumers, selection, begin + some.start, begin + some.stop)(forms)
        for consumer in consumers:
            consumer.finish()
    covered = make_coverage(trainable, selection, plan, norm_selected)
    return SweepReport(len(samples), losses, covered, size, time.perf_counter() - begun)


def planned(model: nn.Module, selection: Selection, loss: Loss, samples: Samples) -> tuple[Plan, float]:
    """A plan that was tried on the first and the middle sample, and the norm's share that the probe saw.

    Args:
        model: a private model; its parameters are frozen afterwards.
        selection: of it.
        loss: one loss per sample.
        samples: the dataset.

    Returns:
        The plan and the share.
    """
    plan = make_plan(model, selection)
    ids = sorted({0, len(samples) // 2})
    inputs, labels = samples.batch(torch.tensor(ids))
    return plan, probe(model, selection, plan, loss, inputs, labels)


def make_context(selection: Selection, plan: Plan, samples: int) -> SweepContext:
    """What consumers learn, from the selection and the plan."""
    first = next(iter(selection.parameters.values()))
    shapes = {name: tuple(parameter.shape) for name, parameter in selection.parameters.items()}
    whole = tuple(sorted(plan.whole_model))
    blocks = (*plan.blocks, *([whole] if whole else []))
    return SweepContext(samples, shapes, selection.masks, blocks, first.device, first.dtype)


def make_coverage(trainable: int, selection: Selection, plan: Plan, norm_selected: float | None) -> RuleCoverage:
    """The shares of parameters, of so many trainable ones, beside the given share of the norm."""
    sizes = {
        name: int(selection.masks[name].sum()) if name in selection.masks else parameter.numel()
        for name, parameter in selection.parameters.items()
    }
    selected = sum(sizes.values())
    fallen = sum(sizes[name] for name in plan.fallback)
    rules = tuple(name for name in selection.parameters if name not in plan.fallback)
    by_fallback = fallen / selected
    return RuleCoverage(trainable, selected, 1.0 - by_fallback, by_fallback, norm_selected, rules, dict(plan.fallback))


def _trainable(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def coverage(model: nn.Module, parameters: Choice = None) -> RuleCoverage:
    """Which parameters have layer rules, from a look at the modules alone.

    A sweep also tries the rules on data and may find that a parameter is used outside its module; its report says so.

    Args:
        model: in eval mode; it is only read.
        parameters: which parameters; see ``select``.

    Returns:
        The coverage, without the share of the norm.
    """
    selection = select(model, parameters)
    return make_coverage(_trainable(model), selection, make_plan(model, selection), None)


class _Delivery:
    """Hands forms to consumers, with masks and the samples' places."""

    def __init__(self, consumers: Sequence[Consumer], selection: Selection, begin: int, end: int) -> None:
        self._consumers, self._selection = consumers, selection
        self._samples = slice(begin, end)

    def __call__(self, forms: dict[str, Form]) -> None:
        masks, parameters = self._selection.masks, self._selection.parameters
        block = Block(
            {
                name: SampleGradients(name, form, masks.get(name), parameters[name].element_size())
                for name, form in forms.items()
            },
            self._samples,
        )
        for consumer in self._consumers:
            consumer.consume(block)
