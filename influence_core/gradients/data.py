"""Reading samples: any map-style dataset, a pair of tensors, or anything that can give a batch at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from influence_core.errors import InvalidInput
from influence_core.inputs import Bundle, Inputs, as_inputs, moved, parts_of, stacked


class Batched(Protocol):
    """Gives many samples at once."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def batch(self, ids: Tensor, /) -> tuple[Any, Any]:
        """Inputs and labels of some samples, in their order: tensors, or ``influence_core.inputs.Bundle``."""
        ...


class MapStyle(Protocol):
    """Gives samples one by one: ``(inputs, label)``."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """One sample."""
        ...


class Labelled(Batched, Protocol):
    """Whose labels can be read without its inputs, and of which some can be taken."""

    labels: Tensor

    def subset(self, ids: Tensor, /) -> Batched:
        """Some of the samples, in this order."""
        ...


Data = Batched | MapStyle | tuple[Inputs, Inputs]
"""What the engine reads: a dataset of either kind, or inputs ``[N, ...]`` and labels ``[N, ...]``."""


def labelled(data: Data) -> Labelled:
    """Data of which some samples can be taken, as they are.

    Args:
        data: of any kind.

    Returns:
        The same.

    Raises:
        InvalidInput: if it has no ``subset(ids)``.
    """
    if not (hasattr(data, "subset") and hasattr(data, "labels")):
        raise InvalidInput(
            f"the data is a {type(data).__name__}, of which no samples can be taken: wrap it in ic.data.LabelledDataset"
        )
    return data  # type: ignore[return-value]  # checked above


class Samples:
    """A dataset as batches in dataset order, on the model's device and in its floating-point type.

    Args:
        data: a map-style dataset of ``(inputs, label)``, or a pair of tensors or bundles ``([N, ...], [N, ...])``.
            If it has a method ``batch(ids) -> (inputs, labels)``, that is used instead of reading sample by sample.
            Inputs of several tensors, tuples or mappings, become a ``Bundle``.
        labels: labels ``[N, ...]`` to use instead of the data's own.
        device: where batches go.
        dtype: type of floating-point inputs.

    Attributes:
        pads: whether what a sample's inputs look like depends on the other samples of its batch.

    Raises:
        ValueError: The numbers of inputs and labels differ, or the data is empty.
    """

    def __init__(self, data: Data, labels: Tensor | None, device: torch.device, dtype: torch.dtype) -> None:
        """See the class."""
        self._read, self._count = _reader(data)
        if self._count == 0:
            raise ValueError("the dataset is empty; expected at least one sample")
        if labels is not None and len(labels) != self._count:
            raise ValueError(f"{len(labels)} labels are given for {self._count} samples; expected one for each")
        self._labels, self._device, self._dtype = labels, device, dtype
        self.pads = bool(getattr(data, "pads", False))

    def __len__(self) -> int:
        """Number of samples."""
        return self._count

    def batch(self, ids: Tensor) -> tuple[Any, Any]:
        """Inputs and labels of the samples ``ids``."""
        inputs, labels = self._read(ids)
        if self._labels is not None:
            labels = self._labels[ids.to(self._labels.device)]
        return moved(_ordinary(inputs), self._device, self._dtype), moved(_ordinary(labels), self._device)


def _reader(data: Any) -> tuple[Callable[[Tensor], tuple[Any, Any]], int]:
    if callable(getattr(data, "batch", None)):
        return data.batch, len(data)
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor | Bundle) for part in data):
        inputs, labels = data
        if len(inputs) != len(labels):
            raise ValueError(
                f"there are {len(inputs)} inputs and {len(labels)} labels; expected as many of one as of the other"
            )
        return lambda ids: (inputs[_run(ids)], labels[_run(ids)]), len(inputs)
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise TypeError(
            f"{type(data).__name__} is not a dataset; expected __getitem__ and __len__, or a pair of tensors"
        )
    return lambda ids: _collated([data[int(i)] for i in ids]), len(data)


def _ordinary(given: Any) -> Inputs:
    """Tensors that autograd may save, also if the caller made them in inference mode."""
    if isinstance(given, Tensor):
        return given.clone() if given.is_inference() else given.detach()
    bundle = as_inputs(given)
    found = [part.clone() if part.is_inference() else part.detach() for part in parts_of(bundle)]
    names = bundle.names if isinstance(bundle, Bundle) else None
    return Bundle(found if names is None else dict(zip(names, found, strict=True)))


def _run(ids: Tensor) -> slice | Tensor:
    """Consecutive ids as a slice, so that a batch of a tensor is a view instead of a copy."""
    first, last = int(ids[0]), int(ids[-1])
    return slice(first, last + 1) if last - first + 1 == len(ids) and bool((ids.diff() == 1).all()) else ids


def _collated(samples: Sequence[tuple[Any, Any]]) -> tuple[Inputs, Inputs]:
    return stacked([sample[0] for sample in samples]), stacked([sample[1] for sample in samples])
