"""The part of a study that the doctor looks at: read once, passed through the model once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from influence_core.data import LabelledDataset, SampleSet
from influence_core.inputs import moved
from influence_core.models import private
from influence_core.study import SPLITS, Study

VALUES = 6_000_000
"""Numbers of all inputs of a split that are read by default: a second or so."""

MOST, LEAST = 512, 32
"""Samples of a split that are passed through the model, at most and, where there are so many, at least."""


@dataclass(frozen=True, eq=False)
class Part:
    """Some samples of a split.

    Attributes:
        name: of the split.
        data: all of it.
        ids: of the samples, int64 [n].
        inputs: [n, ...]; ``None`` where samples are no tensors of one shape.
        labels: int64 [n]; ``None`` where labels are no classes.
        outputs: of the model, [n, K]; ``None`` likewise.
    """

    name: str
    data: LabelledDataset
    ids: Tensor
    inputs: Tensor | None
    labels: Tensor | None
    outputs: Tensor | None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.ids)

    def accuracy(self) -> float | None:
        """Share of samples whose prediction is the label."""
        if self.outputs is None or self.labels is None:
            return None
        return float((self.outputs.argmax(1) == self.labels).double().mean())


def spread(size: int, count: int) -> Tensor:
    """Ids of up to ``count`` of ``size`` samples, spread evenly and in order, int64."""
    return torch.arange(size) if count >= size else (torch.arange(count, dtype=torch.float64) * size / count).long()


def affordable(data: LabelledDataset, values: int = VALUES) -> int:
    """How many samples hold so many numbers."""
    first = data.batch([0])[0]
    return max(1, values // max(1, first.numel() if isinstance(first, Tensor) else values // LEAST))


def parts_of(study: Study, most: int = MOST) -> dict[str, Part]:
    """Samples of every split of a study.

    Args:
        study: only read.
        most: samples of a split.

    Returns:
        Split -> samples.
    """
    return {s: _part(study, s, most) for s in SPLITS if getattr(study, s) is not None}


def _part(study: Study, name: str, most: int) -> Part:
    data = study.split(name)
    ids = spread(len(data), min(most, max(LEAST, affordable(data))))
    if isinstance(data, SampleSet) or study.classes is None:
        return Part(name, data, ids, None, None, None)
    inputs, labels = data.batch(ids)
    return Part(name, data, ids, inputs, labels, passed(study, inputs))


def passed(study: Study, inputs: Tensor) -> Tensor:
    """Outputs of a private copy of the model for inputs that may be others than those of the study, [n, K]."""
    model = private(study.model)
    with torch.no_grad():
        kind = next(model.parameters())
        some = [model(moved(chunk, kind.device, kind.dtype)).cpu() for chunk in inputs.split(64)]
    return torch.cat(some)
