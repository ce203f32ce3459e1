"""Samples of any kind: several inputs, inputs of unequal length, labels that are no classes."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from influence_core.data.dataset import LabelledDataset, PictureSource, places_among
from influence_core.data.reading import spread_ids
from influence_core.data.shareable import Shareable
from influence_core.errors import InvalidInput, NotSupported
from influence_core.identity import add_tensor
from influence_core.inputs import Bundle, Inputs, as_inputs, parts_of, stacked

Collate = Callable[[list[Any]], Any]
"""Makes a batch of samples as the dataset gives them: ``(inputs, labels)``, or inputs alone."""

LABEL_NAMES = ("labels", "label")
"""Entries of a mapping that hold the label unless told otherwise."""


class SampleSet(LabelledDataset):
    """A dataset for models that are no image classifiers, and for losses of any kind.

    A sample of the dataset is ``(inputs, label)``: inputs are a tensor, a tuple or a mapping of tensors, the label a
    number or a tensor. Of a tuple of more than two the last is the label and the others are inputs; of a mapping alone,
    the entry "labels" or "label" is. The model is called as ``model(inputs)``, ``model(*inputs)`` or
    ``model(**inputs)``, the loss as ``loss(outputs, labels)``.

    Samples of unequal length need ``collate``, which pads them and gives a mask, as a ``DataLoader`` would. Nothing may
    depend on how far a batch is padded: the model has to heed the mask, and ``ic.Study`` checks on some samples that it
    does. Where a number belongs to a sample alone, ``collate`` is asked with that sample alone.

    Args:
        base: a map-style dataset, read by one thread at a time; a ``TensorDataset`` is read without a loop.
        labels: name of the input that is the label and goes to the loss alone; or all labels [N, ...] to use instead of
            the dataset's own.
        target: makes the labels ``[B, ...]`` from the inputs of a batch, which stay as they are: for losses that look
            at the inputs again (token ids, an image to be reconstructed). Samples are then inputs and nothing else.
        collate: list of samples -> ``(inputs, labels)``, or inputs alone; by default samples are stacked.
        true_labels: the labels known to be right, [N, ...], or ``None``.
        class_names: one name per class, where labels are classes.
        pictures: what a person should see of a sample, as of ``LabelledDataset``.
        filepaths: where each sample comes from, [N], for exports.
        name: a short name for messages ("train").

    Attributes:
        pads: whether ``collate`` makes batches, so that a sample may look otherwise in another one.

    Raises:
        InvalidInput: if a length does not fit, or the base is no map-style dataset.

    Example:
        >>> words = [{"ids": torch.tensor(ids), "label": len(ids)} for ids in ([1, 2], [3, 4])]
        >>> data = SampleSet(words)
        >>> data.batch([0, 1])
        (Bundle(ids (2, 2)), tensor([2, 2]))
    """

    def __init__(  # the base class reads labels that are classes
        self,
        base: Dataset[Any] | Sequence[Any],
        *,
        labels: str | Tensor | None = None,
        target: Callable[[Any], Tensor] | None = None,
        collate: Collate | None = None,
        true_labels: Tensor | Sequence[Any] | None = None,
        class_names: Sequence[str] | None = None,
        pictures: PictureSource | None = None,
        filepaths: Sequence[str] | None = None,
        name: str = "data",
    ) -> None:
        if not hasattr(base, "__len__") or not hasattr(base, "__getitem__"):
            raise InvalidInput(
                f"the {name} set is a {type(base).__name__}; a map-style dataset with __len__ and __getitem__ is "
                "needed: put an iterable's items in a list"
            )
        if target is not None and labels is not None:
            raise InvalidInput(f"the {name} set is given both labels= and target=: give one of them")
        self.base: Any = base
        self.name = name
        self.class_names = None if class_names is None else [str(c) for c in class_names]
        self.filepaths = None if filepaths is None else [str(p) for p in filepaths]
        self.pads = collate is not None
        self._collate, self._target, self._pictures = collate, target, pictures
        self._entry = labels if isinstance(labels, str) else None
        self._ids = torch.arange(len(base))
        self._given = None if labels is None or isinstance(labels, str) else torch.as_tensor(labels).detach().cpu()
        self.true_labels = None if true_labels is None else torch.as_tensor(true_labels).detach().cpu()
        for what, values in (("labels", self._given), ("true labels", self.true_labels), ("file paths", filepaths)):
            if values is not None and len(values) != len(self):
                raise InvalidInput(f"the {name} set has {len(self)} samples but {len(values)} {what}")
        self.sample_ids = None
        self._fingerprint: str | None = None
        self._scanned: tuple[str, tuple[int, ...]] | None = None
        self._found: Tensor | None = None
        self._repeatable = False
        self._make_locks()

    def __len__(self) -> int:
        """Number of samples N."""
        return len(self._ids)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Inputs and label of sample ``index``, as they are in a batch of one."""
        inputs, labels = self.batch([index])
        return inputs[0], labels[0]

    def __repr__(self) -> str:
        """Name and size."""
        return f"SampleSet({self.name!r}, {len(self)} samples)"

    @property
    def labels(self) -> Tensor:  # type: ignore[override]  # where the base class keeps them
        """All labels, [N, ...]; read once, with the inputs.

        Raises:
            NotSupported: if they are no tensor, because their shapes differ.
        """
        if self._given is None:
            self._scan()
            if self._found is None:
                raise NotSupported(
                    f"the labels of the {self.name} set are no tensor [samples, ...]: their shapes differ; batch(ids) "
                    "gives those of some samples"
                )
            return self._found
        return self._given

    @property
    def corrupted(self) -> Tensor | None:
        """Which given labels differ from the true ones, bool [N]; ``None`` if the truth is unknown."""
        if self.true_labels is None:
            return None
        return (self.labels != self.true_labels).reshape(len(self), -1).any(1)

    def class_name(self, label: int) -> str:
        """Name of class ``label``, or the number itself where no names were given."""
        return self.class_names[int(label)] if self.class_names is not None else str(int(label))

    def label_text(self, index: int, true: bool = False) -> str:
        """The label of a sample as a person reads it: a class, a number, or what shape it has."""
        known = self.true_labels if true else self._given
        label = self.batch([index])[1][0] if known is None else known[index]
        if isinstance(label, Tensor) and label.numel() == 1:
            value = label.item()
            return f"{value:.6g}" if isinstance(value, float) else self.class_name(int(value))
        return described(label)

    def batch(self, ids: Tensor | Sequence[int]) -> tuple[Any, Any]:
        """Read samples as one batch.

        Args:
            ids: which samples, [B].

        Returns:
            Inputs, a tensor [B, ...] or a ``Bundle`` of such, and labels [B, ...], in the order of ``ids``.

        Raises:
            InvalidInput: if samples do not fit together, or have no label.
        """
        ids = torch.as_tensor(ids, dtype=torch.long)
        mine = self._ids[ids]
        if isinstance(self.base, TensorDataset) and self._collate is None:
            given = self._parted([tensor[mine] for tensor in self.base.tensors])
        else:
            with self._alone():
                samples = [self.base[int(i)] for i in mine]
            given = self._collated(samples)
        inputs, labels = self._split(*given)
        if self._given is not None:
            labels = self._given[ids]
        if labels is None:
            raise InvalidInput(
                f"the samples of the {self.name} set have no label that could be told from the inputs: give "
                "labels='name of the input', labels=tensor or target=function of the inputs to ic.data.SampleSet"
            )
        listed = isinstance(labels, np.ndarray | list) and not any(isinstance(label, Tensor) for label in labels)
        labels = torch.as_tensor(labels) if listed else as_inputs(labels)
        if not len(inputs) == len(labels) == len(ids):
            raise InvalidInput(
                f"a batch of {len(ids)} samples of the {self.name} set has {len(inputs)} inputs and {len(labels)} "
                "labels: collate has to give as many of both"
            )
        return inputs, labels

    def _collated(self, samples: list[Any]) -> tuple[Any, Any]:
        if self._collate is not None:
            given = self._collate(samples)
            pair = isinstance(given, tuple | list) and len(given) == 2
            return (given[0], given[1]) if pair else (given, None)
        if isinstance(samples[0], tuple | list):
            columns = [stacked(column) for column in zip(*samples, strict=True)]
            if all(isinstance(column, Tensor) for column in columns):
                return self._parted(columns)
            if len(columns) <= 2:  # inputs that are a mapping or a tuple, with a label or without
                return columns[0], columns[1] if len(columns) == 2 else None
            raise InvalidInput(
                f"a sample of the {self.name} set is a tuple of {len(columns)} parts, some of which are no tensors: "
                "pass collate=function(list of samples) to ic.data.SampleSet"
            )
        return stacked(samples), None

    def _parted(self, columns: Sequence[Any]) -> tuple[Any, Any]:
        """Columns of a tuple as inputs, and as labels the last one unless all are inputs."""
        inputs, label = (
            (columns, None) if self._target is not None or len(columns) == 1 else (columns[:-1], columns[-1])
        )
        return (inputs[0] if len(inputs) == 1 else tuple(inputs)), label

    def _split(self, inputs: Any, labels: Any) -> tuple[Inputs, Any]:
        """Inputs, and labels where they are known."""
        inputs = as_inputs(inputs)
        if self._target is not None:
            return inputs, self._target(inputs)
        named = isinstance(inputs, Bundle) and inputs.names is not None
        names: tuple[str, ...] = inputs.names or () if isinstance(inputs, Bundle) else ()
        if self._entry is not None and (not named or self._entry not in names):
            raise InvalidInput(
                f"the inputs of the {self.name} set have no {self._entry!r} to be the label; they are "
                f"{', '.join(names) or 'no mapping'}"
            )
        entry = self._entry
        if entry is None and labels is None:
            entry = next((name for name in LABEL_NAMES if name in names), None)
        if entry is not None and isinstance(inputs, Bundle):
            own = inputs.kwargs
            labels = own.pop(entry)
            if not own:
                raise InvalidInput(f"the samples of the {self.name} set have the label {entry!r} and no input")
            inputs = Bundle(own)
        return inputs, labels

    def picture(self, index: int) -> Image.Image:
        """What a person should see of sample ``index``.

        Args:
            index: sample id.

        Returns:
            A picture in mode "L" or "RGB".

        Raises:
            NotSupported: if no ``pictures`` were given and the samples are no images.
        """
        if self._pictures is None and not isinstance(self.batch([index])[0], Tensor):
            raise NotSupported(
                f"a {self.name} sample has several inputs, of which there is no picture: pass pictures=function(index) "
                "to ic.data.SampleSet to say what a person should see"
            )
        return super().picture(index)

    def sample_sha256(self, index: int) -> str:
        """SHA-256 of the inputs of sample ``index``: proof that a CSV means this sample."""
        digest = hashlib.sha256()
        for part in parts_of(self.batch([index])[0]):
            add_tensor(digest, part[0])
        return digest.hexdigest()

    def with_labels(self, labels: Any) -> SampleSet:
        """The same samples with other given labels.

        Args:
            labels: the new given labels, [N, ...].

        Returns:
            A new dataset; this one does not change.

        Raises:
            InvalidInput: if there are not N.
        """
        given = torch.as_tensor(labels).detach().cpu().clone()
        if len(given) != len(self):
            raise InvalidInput(f"{len(given)} labels for the {len(self)} samples of the {self.name} set")
        other = self._again()
        other._given = given
        return other

    def called(self, name: str, class_names: Sequence[str] | None = None) -> SampleSet:
        """The same samples under a name, where they have none of their own yet.

        Args:
            name: what messages call them.
            class_names: of classes, to use where there are none.

        Returns:
            This dataset, or a new one.
        """
        nameless = self.class_names is None and class_names is not None
        if self.name != "data" and not nameless:
            return self
        other = copy.copy(self)
        other.name = name if self.name == "data" else self.name
        other.class_names = [str(c) for c in class_names or ()] if nameless else self.class_names
        return other

    def _again(self) -> SampleSet:
        """A copy that has computed nothing yet."""
        other = copy.copy(self)
        other._scanned, other._found, other._fingerprint = None, None, None
        return other

    def subset(self, ids: Tensor | Sequence[int]) -> SampleSet:
        """Some of the samples, renumbered from 0.

        Args:
            ids: which samples to keep, in this order; or a mask, bool [N].

        Returns:
            A new dataset; this one does not change.

        Raises:
            InvalidInput: if there is no such sample, or a mask has another length.
        """
        chosen = self._checked(ids)
        other = self._again()
        other._ids = self._ids[chosen]
        other._given = None if self._given is None else self._given[chosen]
        other.true_labels = None if self.true_labels is None else self.true_labels[chosen]
        other.filepaths = None if self.filepaths is None else [self.filepaths[i] for i in chosen.tolist()]
        if self._pictures is not None:
            other._pictures = _Picked(self._pictures, chosen.tolist())
        return other

    def places_in(self, other: LabelledDataset) -> list[int] | None:
        """Which samples of another set these are, by where they come from and whatever their labels.

        Args:
            other: the set, such as the one that this is a subset of.

        Returns:
            Their ids there, [N]; ``None`` if some are not from there, or are read in another way.
        """
        if not isinstance(other, SampleSet) or self.base is not other.base:
            return None
        if (self._collate, self._target, self._entry) != (other._collate, other._target, other._entry):
            return None
        return places_among(self._ids.tolist(), other._ids.tolist())

    @property
    def is_quick(self) -> bool:
        """Whether the fingerprint takes a moment: the samples are tensors."""
        return isinstance(self.base, (Shareable, TensorDataset))

    def check_repeatable(self) -> None:
        """Refuse a random transform: some samples, spread evenly, are read twice.

        Raises:
            InvalidInput: naming the first sample that differs.
        """
        if self._repeatable or isinstance(self.base, TensorDataset):
            return
        for index in spread_ids(len(self)).tolist():
            first, second = (parts_of(self.batch([index])[0]) for _ in range(2))
            for one, two in zip(first, second, strict=True):
                if one.shape != two.shape or not torch.equal(one.nan_to_num(), two.nan_to_num()):
                    raise InvalidInput(
                        f"{self.name} sample {index} is not the same when it is read twice: its transform is random, "
                        "and no result could be repeated. Give the study the dataset with the transform of evaluation."
                    )
        self._repeatable = True

    def _scan(self) -> tuple[str, tuple[int, ...]]:
        """Fingerprint and samples that are not finite, each sample as it is in a batch of one; labels on the way."""
        with self._scanning:
            if self._scanned is None:
                digest, bad, labels = hashlib.sha256(), [], []
                for index in range(len(self)):
                    inputs, label = self.batch([index])
                    names = inputs.names if isinstance(inputs, Bundle) else None
                    digest.update(repr(names).encode())
                    for part in (*parts_of(inputs), *parts_of(label)):
                        add_tensor(digest, part[0])
                    labels.append(label)
                    floats = [p for p in parts_of(inputs) if p.is_floating_point()]
                    bad += [index] * (not all(bool(torch.isfinite(part).all()) for part in floats))
                same = len({(one.shape, one.dtype) if isinstance(one, Tensor) else None for one in labels}) == 1
                self._found = torch.cat(labels) if same and isinstance(labels[0], Tensor) else None
                self._scanned = digest.hexdigest(), tuple(bad)
                self._fingerprint = self._scanned[0]
            return self._scanned

    def _input(self, index: int) -> Tensor:
        inputs = self.batch([index])[0][0]
        if not isinstance(inputs, Tensor):
            raise NotSupported(f"a {self.name} sample has several inputs; batch([index]) gives them")
        return inputs


class _Picked:
    """Pictures of a subset."""

    def __init__(self, source: PictureSource, ids: list[int]) -> None:
        self._source, self._ids = source, ids

    def __call__(self, index: int) -> Any:
        return self._source(self._ids[index])


def described(label: Any) -> str:
    """What a label is, in words.

    Args:
        label: of one sample.

    Returns:
        Such as "float values of shape (1,)".
    """
    if isinstance(label, Bundle):
        return f"several tensors ({', '.join(label.kwargs) or len(label.parts)})"
    if isinstance(label, Mapping) or not isinstance(label, Tensor):
        return f"of the type {type(label).__name__}"
    kind = "float" if label.is_floating_point() else "whole" if label.dtype != torch.bool else "boolean"
    return f"{kind} numbers" if label.dim() == 0 else f"{kind} values of shape {tuple(label.shape)}"
