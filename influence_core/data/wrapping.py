"""Which class a dataset of the user's own becomes: images with classes, or samples of any kind."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from influence_core.data import dataset as labelled
from influence_core.data.dataset import LabelledDataset
from influence_core.data.reading import reading_lock
from influence_core.data.samples import SampleSet


def wrap(dataset: Dataset[Any], name: str, class_names: Sequence[str] | None = None) -> LabelledDataset:
    """Make a dataset of the package of any map-style dataset; one that is one already is kept, and never changed.

    Samples ``(tensor, class number)`` make a ``LabelledDataset``; whatever else ``SampleSet`` can read makes that.

    Args:
        dataset: a map-style dataset.
        name: what messages call it ("train").
        class_names: names to use where the dataset has none of its own that say otherwise, see ``names_of``.

    Returns:
        The dataset, wrapped.
    """
    if isinstance(dataset, SampleSet):
        return dataset.called(name, class_names)
    if isinstance(dataset, LabelledDataset) or not _is_general(dataset):
        return labelled.wrap(dataset, name, class_names)
    return SampleSet(dataset, class_names=labelled.names_of(dataset, class_names), name=name)


def _is_general(dataset: Any) -> bool:
    """Whether the first sample is one that ``LabelledDataset`` does not take, and ``SampleSet`` does."""
    if isinstance(dataset, TensorDataset):
        last = dataset.tensors[-1]
        return len(dataset.tensors) > 1 and (len(dataset.tensors) > 2 or last.is_floating_point() or last.dim() != 1)
    try:
        if not len(dataset):
            return False
        with reading_lock(dataset):
            sample = dataset[0]
    except Exception:  # whatever the dataset raises: LabelledDataset says what it expects
        return False
    if isinstance(sample, Mapping):
        return True
    if not isinstance(sample, tuple | list) or len(sample) < 2:
        return False
    inputs, label = sample[0], sample[1]
    if isinstance(inputs, Mapping | tuple | list):
        return True
    return isinstance(inputs, Tensor) and isinstance(label, float | Tensor | np.ndarray) and not _is_index(label)


def _is_index(label: Any) -> bool:
    try:
        operator.index(label)
    except TypeError:
        return False
    return True
