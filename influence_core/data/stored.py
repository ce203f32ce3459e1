"""Datasets as the tensors of a study file, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from influence_core.data.dataset import LabelledDataset
from influence_core.data.samples import SampleSet
from influence_core.data.shareable import Shareable
from influence_core.errors import InvalidInput, NotSupported
from influence_core.inputs import Bundle, Inputs, concatenated

_PART = "inputs/"
_GENERAL = "general"


class StoredSamples(Shareable, Dataset[Any]):
    """Samples whose inputs are several tensors, with a label each.

    Args:
        inputs: of all samples.
        labels: of all samples.
    """

    def __init__(self, inputs: Inputs, labels: Inputs) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Inputs and label of one sample."""
        return self.inputs[index], self.labels[index]


def to_tensors(data: LabelledDataset) -> dict[str, Tensor]:
    """A dataset as tensors with names.

    Args:
        data: to be stored.

    Returns:
        "inputs" and "labels", or "inputs/NAME" and "labels" of general data; and "true_labels" where they are known.

    Raises:
        NotSupported: if samples differ in length, or labels are several tensors.
    """
    if not isinstance(data, SampleSet):
        images, classes = data.batch(torch.arange(len(data)))
        tensors = {"inputs": images, "labels": classes}
        return tensors if data.true_labels is None else tensors | {"true_labels": data.true_labels}
    general: SampleSet = data
    batches = [general.batch([index]) for index in range(len(data))]
    try:
        inputs = concatenated([one for one, _ in batches])
        labels = concatenated([label for _, label in batches])
    except RuntimeError as error:
        raise NotSupported(
            f"the {data.name} set cannot be saved: its samples differ in length, and a study file holds tensors of one "
            "shape. Let collate pad all of them to one length, or build the study anew from your code each time"
        ) from error
    if isinstance(labels, Bundle):
        raise NotSupported(
            f"the {data.name} set cannot be saved: its labels are several tensors, and a study file holds one: let "
            "collate make one tensor of them"
        )
    tensors = {"labels": labels, _GENERAL: torch.ones(1)}
    if isinstance(inputs, Bundle):
        names = inputs.names or tuple(str(place) for place in range(len(inputs.parts)))
        mapped = torch.tensor([float(inputs.names is not None)])
        tensors |= {_PART + name: part for name, part in zip(names, inputs.parts, strict=True)} | {_GENERAL: mapped}
        tensors |= {f"order/{name}": torch.tensor([place]) for place, name in enumerate(names)}
    else:
        tensors["inputs"] = inputs
    return tensors if data.true_labels is None else tensors | {"true_labels": data.true_labels}


def from_tensors(
    tensors: Mapping[str, Tensor],
    class_names: Sequence[str] | None,
    name: str,
    source: str,
    texts: Mapping[str, Sequence[str] | None] | None = None,
) -> LabelledDataset:
    """What ``to_tensors`` made tensors of.

    Args:
        tensors: by name.
        class_names: of the study.
        name: of the dataset.
        source: the file, for messages.
        texts: "filepaths" and "sample_ids" of samples, where they are known.

    Returns:
        The dataset.

    Raises:
        InvalidInput: if tensors are missing, or their lengths differ.
    """
    places = {key.removeprefix("order/"): int(value) for key, value in tensors.items() if key.startswith("order/")}
    for needed in ("labels", *([] if places else ["inputs"]), *(_PART + part for part in places)):
        if needed not in tensors:
            raise InvalidInput(f"{source} has no tensor {needed!r}; it holds {', '.join(sorted(tensors)) or 'nothing'}")
    parts = [tensors[_PART + part] for part in sorted(places, key=places.__getitem__)] or [tensors["inputs"]]
    labels = tensors["labels"]
    for part in parts:
        if part.shape[:1] != labels.shape[:1]:
            raise InvalidInput(f"{source} has {tuple(part.shape)[:1]} inputs but {tuple(labels.shape)[:1]} labels")
    true = tensors.get("true_labels")
    if _GENERAL not in tensors:
        base = TensorDataset(parts[0], labels)
        known = texts or {}
        return LabelledDataset(
            base,
            true_labels=true,
            class_names=class_names,
            filepaths=known.get("filepaths"),
            sample_ids=known.get("sample_ids"),
            name=name,
        )
    named = bool(tensors[_GENERAL][0])
    inputs: Inputs = parts[0]
    if places:
        inputs = Bundle(dict(zip(sorted(places, key=places.__getitem__), parts, strict=True)) if named else parts)
    return SampleSet(StoredSamples(inputs, labels), true_labels=true, class_names=class_names, name=name)
