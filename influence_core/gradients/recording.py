"""A recording: the forms of a whole dataset, kept to be used again without another pass through the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from influence_core.gradients.block import Block, Consumer, SampleGradients, SweepContext
from influence_core.gradients.forms import Form
from influence_core.gradients.sweep import SweepReport, sweep
from influence_core.gradients.types import Loss


@dataclass(frozen=True)
class Recording:
    """Activations and output gradients of every layer for N samples.

    Where two passes over the data are needed, the second depending on the first (a diagonal Fisher matrix, then norms
    in it), this saves the model's forward and backward passes of the second. It takes as much memory as the
    activations of all N samples together: see ``bytes``.

    Attributes:
        report: Of the sweep that recorded it.
        bytes: Memory that it holds.
    """

    report: SweepReport
    bytes: int
    _context: SweepContext
    _blocks: tuple[tuple[slice, dict[str, Form]], ...]

    def replay(self, consumers: Sequence[Consumer]) -> None:
        """Serve consumers as ``sweep`` would, from memory.

        Args:
            consumers: What to compute; read their ``result()`` afterwards.
        """
        for consumer in consumers:
            consumer.start(self._context)
        itemsize = self._context.dtype.itemsize
        for samples, forms in self._blocks:
            masks = self._context.masks
            gradients = {name: SampleGradients(name, form, masks.get(name), itemsize) for name, form in forms.items()}
            block = Block(gradients, samples)
            for consumer in consumers:
                consumer.consume(block)
        for consumer in consumers:
            consumer.finish()


def record(model: nn.Module, loss: Loss, data: Any, consumers: Sequence[Consumer] = (), **options: Any) -> Recording:
    """Sweep once, serve consumers on the way, and keep what the layers saw.

    Args:
        model: The model, in eval mode.
        loss: One loss per sample.
        data: N samples.
        consumers: What to compute in the recording sweep itself.
        **options: Of ``sweep``.

    Returns:
        The recording.
    """
    recorder = _Recorder()
    report = sweep(model, loss, data, [recorder, *consumers], **options)
    return recorder.result(report)


class _Recorder:
    def start(self, context: SweepContext) -> None:
        self._context = context
        self._blocks: list[tuple[slice, dict[str, Form]]] = []

    def consume(self, block: Block) -> None:
        self._blocks.append((block.samples, {name: gradients.form for name, gradients in block.items()}))

    def finish(self) -> None:
        pass

    def result(self, report: SweepReport) -> Recording:
        kept = sum(form.costs().kept * form.batch for _, forms in self._blocks for form in forms.values())
        return Recording(report, int(kept) * self._context.dtype.itemsize, self._context, tuple(self._blocks))
