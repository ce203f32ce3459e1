"""A map-style dataset with labels, true labels when known, and pictures to show."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from influence_core.data.encoded import EncodedImages
from influence_core.data.labels import check_labels, label_tensor, read_labels
from influence_core.data.reading import check_repeatable, reading_lock
from influence_core.data.shareable import Shareable, stack_inputs
from influence_core.data.torchvision_sets import adopted
from influence_core.errors import InvalidInput, NotSupported
from influence_core.identity import add_tensor

PictureSource = Callable[[int], Any]
"""Gives what a person should see of sample ``i``: a ``PIL.Image``, or a ``uint8`` array [H, W] or [H, W, 3]."""

_CHUNK = 512


class LabelledDataset(Shareable, Dataset[tuple[Tensor, int]]):
    """A dataset of ``(input tensor, label)`` whose labels can be read, compared and replaced without loading inputs.

    Args:
        base: any map-style dataset of ``(input tensor, label)``; a ``TensorDataset`` is read without a loop. Those
            of torchvision bring class names, file paths and, for people, their pictures without the transform.
        labels: the labels to use instead of those of ``base``, int64 [N].
        true_labels: the labels known to be right, int64 [N], or ``None``.
        class_names: one name per class, in the order of the labels.
        pictures: what to show of a sample; by default the input tensor itself.
        filepaths: where each sample comes from, [N], for exports.
        sample_ids: what each sample is called, [N], for exports; by default the name and a number.
        name: a short name for messages ("train").

    Attributes:
        labels: given labels, int64 [N].
        true_labels: int64 [N], or ``None``.

    Raises:
        InvalidInput: if a length or a label does not fit.
    """

    def __init__(
        self,
        base: Dataset[Any],
        *,
        labels: Tensor | Sequence[int] | None = None,
        true_labels: Tensor | Sequence[int] | None = None,
        class_names: Sequence[str] | None = None,
        pictures: PictureSource | None = None,
        filepaths: Sequence[str] | None = None,
        sample_ids: Sequence[str] | None = None,
        name: str = "data",
    ) -> None:
        if not hasattr(base, "__len__") or not hasattr(base, "__getitem__"):
            raise InvalidInput(
                f"the {name} set is a {type(base).__name__}; a map-style dataset with __len__ and __getitem__ that "
                "gives (input tensor, label) is needed. Wrap an iterable's items in a list or a TensorDataset."
            )
        known = adopted(base, name)
        if known is not None:
            base = known.base if known.ids is None else _Subset(LabelledDataset(known.base, name=name), known.ids)
            labels = known.labels if labels is None else labels
            class_names = known.class_names if class_names is None else class_names
            pictures = known.picture if pictures is None else pictures
            filepaths = known.filepaths if filepaths is None else filepaths
        elif pictures is None and isinstance(base, EncodedImages):
            pictures = base.picture
        self.base = base
        self.name = name
        size: int = len(base)
        self._make_locks()
        with self._alone():
            given = read_labels(base, name) if labels is None else labels
        self.labels = label_tensor(given, size, f"{name} labels")
        self.true_labels = None if true_labels is None else label_tensor(true_labels, size, f"{name} true labels")
        self.class_names = None if class_names is None else [str(c) for c in class_names]
        if self.class_names is not None:
            twice = [c for c, count in Counter(self.class_names).items() if count > 1]
            if twice:
                raise InvalidInput(
                    f"the {name} set has two classes called {twice[0]!r}: a table of labels could not tell them apart"
                )
            for given in (self.labels, self.true_labels):
                if given is not None:
                    check_labels(given, len(self.class_names), name)
        if filepaths is not None and len(filepaths) != size:
            raise InvalidInput(f"the {name} set has {size} samples but {len(filepaths)} file paths")
        self.filepaths = None if filepaths is None else [str(p) for p in filepaths]
        if sample_ids is not None and (len(sample_ids) != size or len(set(sample_ids)) != size):
            raise InvalidInput(
                f"the {name} set has {size} samples but {len(sample_ids)} sample ids, {len(set(sample_ids))} of them "
                "different: give each sample one of its own"
            )
        self.sample_ids = None if sample_ids is None else [str(s) for s in sample_ids]
        self._pictures = pictures
        self._fingerprint: str | None = None
        self._scanned: tuple[str, tuple[int, ...]] | None = None
        self._repeatable = False

    def _make_locks(self) -> None:
        self._scanning = threading.RLock()
        self._reading = reading_lock(self.base)

    def _alone(self) -> AbstractContextManager[Any]:
        """One thread at a time, unless the base is known to need no such care."""
        shareable = isinstance(self.base, (Shareable, TensorDataset))
        return contextlib.nullcontext() if shareable else self._reading

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the locks, which a copy gets anew."""
        return {name: value for name, value in vars(self).items() if name not in ("_scanning", "_reading")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What ``copy.deepcopy`` and ``pickle`` call."""
        vars(self).update(state)
        self._make_locks()

    def __len__(self) -> int:
        """Number of samples N."""
        return int(self.labels.numel())

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Input tensor and given label of sample ``index``."""
        return self._input(index), int(self.labels[index])

    def __repr__(self) -> str:
        """Name, size, classes and the share of labels known to be wrong."""
        wrong = self.corrupted
        note = "" if wrong is None else f", {int(wrong.sum())} labels known to be wrong"
        return f"LabelledDataset({self.name!r}, {len(self)} samples{note})"

    @property
    def corrupted(self) -> Tensor | None:
        """Which given labels differ from the true ones, bool [N]; ``None`` if the truth is unknown."""
        return None if self.true_labels is None else self.labels != self.true_labels

    def class_name(self, label: int) -> str:
        """Name of class ``label``, or the number itself where no names were given."""
        return self.class_names[label] if self.class_names is not None else str(int(label))

    def label_text(self, index: int, true: bool = False) -> str:
        """The given label of sample ``index``, or the one known to be true, as a person reads it."""
        labels = self.true_labels if true and self.true_labels is not None else self.labels
        return self.class_name(int(labels[index]))

    def batch(self, ids: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
        """Stack samples.

        Args:
            ids: which samples, [B].

        Returns:
            Inputs [B, ...] and given labels int64 [B], in the order of ``ids``.

        Raises:
            InvalidInput: if two inputs differ in shape.
        """
        ids = torch.as_tensor(ids, dtype=torch.long)
        labels = self.labels[ids]
        if isinstance(self.base, TensorDataset):
            return self.base.tensors[0][ids], labels
        inputs = getattr(self.base, "inputs", None)
        if callable(inputs):  # a dataset that can give many inputs at once
            with self._alone():
                return inputs(ids), labels
        return stack_inputs([self._input(int(i)) for i in ids], ids.tolist(), self.name), labels

    def picture(self, index: int) -> Image.Image:
        """What a person should see of sample ``index``.

        Args:
            index: sample id.

        Returns:
            A picture in mode "L" or "RGB" at its own size.

        Raises:
            NotSupported: if the samples are no images and no ``pictures`` were given.
        """
        if self._pictures is None:
            return _tensor_picture(self._input(index), self.name)
        with self._alone():
            shown = self._pictures(index)
        image = shown if isinstance(shown, Image.Image) else Image.fromarray(np.asarray(shown))
        return image if image.mode in ("L", "RGB") else image.convert("RGB")

    def filepath(self, index: int) -> str:
        """Where sample ``index`` comes from; empty where unknown."""
        return "" if self.filepaths is None else self.filepaths[index]

    def sample_id(self, index: int) -> str:
        """What sample ``index`` is called in exports."""
        return f"{self.name}-{index:06d}" if self.sample_ids is None else self.sample_ids[index]

    def sample_sha256(self, index: int) -> str:
        """Proof that a CSV means this sample: SHA-256 of its picture file, as ``sha256sum`` gives it.

        Of samples that come from no file, and where the transform cannot be named, that of the input (bytes, shape and
        dtype).

        Args:
            index: sample id.

        Returns:
            64 hexadecimal digits.
        """
        images, ids = self._encoded()
        return self.input_sha256(index) if images is None else images.sha256(index if ids is None else ids[index])

    def input_sha256(self, index: int) -> str:
        """SHA-256 of the input of sample ``index`` (bytes, shape and dtype)."""
        return _digest([self._input(index)])

    def root(self) -> tuple[Any, list[int] | None]:
        """The dataset below all subsets, and which of its samples these are; ``None`` for all of them in order."""
        if not isinstance(self.base, _Subset):
            return self.base, None
        below, ids = self.base.base.root()
        return below, self.base.ids if ids is None else [ids[i] for i in self.base.ids]

    def places_in(self, other: LabelledDataset) -> list[int] | None:
        """Which samples of another set these are, by where they come from and whatever their labels.

        Args:
            other: the set, such as the one that this is a subset of.

        Returns:
            Their ids there, [N]; ``None`` if some are not from there.
        """
        (mine, ids), (theirs, known) = self.root(), other.root()
        if mine is not theirs or type(self) is not type(other):
            return None
        return places_among(
            list(range(len(self))) if ids is None else ids, list(range(len(other))) if known is None else known
        )

    def _encoded(self) -> tuple[EncodedImages | None, list[int] | None]:
        """As ``root``, if its samples are pictures and it can be said what is done to them."""
        below, ids = self.root()
        known = isinstance(below, EncodedImages) and below.preprocessing.identity is not None
        return (below if known else None), ids

    @property
    def is_quick(self) -> bool:
        """Whether the fingerprint takes a moment: the samples are tensors, or pictures that need no decoding for it."""
        below, _ = self.root()
        images, _ = self._encoded()
        return isinstance(below, TensorDataset) or (images is not None and images.source.at_hand)

    def with_labels(self, labels: Tensor | Sequence[int]) -> LabelledDataset:
        """The same samples with other given labels.

        Args:
            labels: the new given labels, int64 [N].

        Returns:
            A new dataset; this one does not change.
        """
        return LabelledDataset(
            self.base,
            labels=labels,
            true_labels=self.true_labels,
            class_names=self.class_names,
            pictures=self._pictures,
            filepaths=self.filepaths,
            sample_ids=self.sample_ids,
            name=self.name,
        )

    def subset(self, ids: Tensor | Sequence[int]) -> LabelledDataset:
        """Some of the samples, renumbered from 0.

        Args:
            ids: which samples to keep, in this order; or a mask, bool [N].

        Returns:
            A new dataset; this one does not change.

        Raises:
            InvalidInput: if there is no such sample, or a mask has another length.
        """
        ids = self._checked(ids)
        listed = ids.tolist()
        source = self._pictures
        return LabelledDataset(
            _Subset(self, listed),
            labels=self.labels[ids],
            true_labels=None if self.true_labels is None else self.true_labels[ids],
            class_names=self.class_names,
            pictures=None if source is None else _SubsetPictures(source, listed),
            filepaths=None if self.filepaths is None else [self.filepaths[i] for i in listed],
            sample_ids=None if self.sample_ids is None else [self.sample_ids[i] for i in listed],
            name=self.name,
        )

    def without(self, ids: Tensor | Sequence[int]) -> LabelledDataset:
        """All but some of the samples, renumbered from 0.

        Args:
            ids: which samples to leave out, in any order; or a mask, bool [N].

        Returns:
            A new dataset; this one does not change.

        Raises:
            InvalidInput: as ``subset``.
        """
        stays = torch.ones(len(self), dtype=torch.bool)
        stays[self._checked(ids)] = False
        return self.subset(stays)

    def _checked(self, ids: Tensor | Sequence[int]) -> Tensor:
        """Ids, int64, of a subset."""
        ids = torch.as_tensor(ids)
        if ids.dtype == torch.bool:
            if len(ids) != len(self):
                raise InvalidInput(f"a mask of {len(ids)} values for the {len(self)} samples of the {self.name} set")
            ids = ids.nonzero().flatten()
        ids = ids.to(torch.long)
        bad = ids[(ids < 0) | (ids >= len(self))]
        if bad.numel():
            raise InvalidInput(f"there is no {self.name} sample {int(bad[0])}; ids go from 0 to {len(self) - 1}")
        return ids

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all inputs, given labels and their order; computed once.

        Of encoded pictures with a transform that can be named, the files and the transform are hashed instead of the
        inputs, which these decide: nothing is decoded for it.
        """
        with self._scanning:
            if self._fingerprint is None:
                images, ids = self._encoded()
                found = None if images is None else images.content_sha256(self.labels, ids or range(len(self)))
                self._fingerprint = self._scan()[0] if found is None else found
            return self._fingerprint

    def check_finite(self) -> None:
        """Refuse NaN and infinity; the inputs are read once, for tensors together with the fingerprint.

        Raises:
            InvalidInput: naming the first image.
        """
        bad = self._scan()[1]
        if bad:
            raise InvalidInput(
                f"{self.name} image {bad[0]} has values that are NaN or infinite ({len(bad)} of {len(self)} images "
                "have some): mend the file or its transform, or leave it out with dataset.subset(ids)"
            )

    def check_repeatable(self) -> None:
        """Refuse a random transform: some samples, spread evenly, are read twice (all of them if they are few), once.

        Raises:
            InvalidInput: naming the first sample that differs.
        """
        if not self._repeatable:  # a study that is edited or replaced in part asks again
            check_repeatable(self)
            self._repeatable = True

    def _scan(self) -> tuple[str, tuple[int, ...]]:
        """Fingerprint, and the samples that are not finite; whoever comes second waits for the first."""
        with self._scanning:
            if self._scanned is None:
                bad: list[int] = []
                chunks = self._chunks(bad)
                if self._encoded()[0] is None:
                    digest = _digest(itertools.chain([self.labels], chunks))
                else:  # whose fingerprint needs no inputs
                    digest = self.fingerprint
                    for _ in chunks:
                        pass
                self._scanned = digest, tuple(bad)
                self._fingerprint = digest
            return self._scanned

    def _chunks(self, bad: list[int]) -> Iterator[Tensor]:
        """All inputs, some at a time; the ids of those that are not finite are added to ``bad``."""
        for start in range(0, len(self), _CHUNK):
            inputs = self.batch(torch.arange(start, min(start + _CHUNK, len(self))))[0]
            if inputs.is_floating_point():
                wrong = ~torch.isfinite(inputs).reshape(len(inputs), -1).all(1)
                bad += (wrong.nonzero().flatten() + start).tolist()
            yield inputs

    def _input(self, index: int) -> Tensor:
        if isinstance(self.base, TensorDataset):
            item: Any = self.base.tensors[0][index]
        else:
            with self._alone():
                item = self.base[index][0]
        if not isinstance(item, Tensor):
            raise InvalidInput(
                f"{self.name} sample {index} has a {type(item).__name__} as input, a tensor is needed: "
                "give the dataset a transform that ends in a tensor (torchvision.transforms.v2.ToImage and ToDtype)."
            )
        return item


class _Subset(Shareable, Dataset[tuple[Tensor, int]]):
    """Index into another dataset; ``LabelledDataset`` brings its own labels, so only inputs are read here."""

    def __init__(self, base: LabelledDataset, ids: list[int]) -> None:
        self.base = base
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.base[self.ids[index]]

    def inputs(self, ids: Tensor) -> Tensor:
        return self.base.batch([self.ids[i] for i in ids.tolist()])[0]


@dataclass(frozen=True)
class _SubsetPictures:
    """Pictures of a subset; a class, because a lambda cannot be pickled."""

    source: PictureSource
    ids: list[int]

    def __call__(self, index: int) -> Any:
        return self.source(self.ids[index])


def wrap(dataset: Dataset[Any], name: str, class_names: Sequence[str] | None = None) -> LabelledDataset:
    """Make a ``LabelledDataset`` of any map-style dataset; one that is one already is kept, and never changed.

    Args:
        dataset: a map-style dataset of ``(input tensor, label)``.
        name: what messages call it ("train").
        class_names: names to use where the dataset has none of its own that say otherwise, see ``names_of``.

    Returns:
        The dataset, wrapped.
    """
    if isinstance(dataset, LabelledDataset):
        nameless = dataset.class_names is None and class_names is not None
        if nameless or dataset.name == "data":
            dataset = dataset.with_labels(dataset.labels)
            dataset.class_names = list(class_names or ()) if nameless else dataset.class_names
            dataset.name = name if dataset.name == "data" else dataset.name
        return dataset
    return LabelledDataset(dataset, class_names=names_of(dataset, class_names), name=name)


def names_of(dataset: Any, given: Sequence[str] | None) -> list[str] | None:
    """The class names of a dataset that is to be read beside another one.

    Args:
        dataset: any; a ``Subset`` has the names of what it is of.
        given: those of the other one, such as the training set.

    Returns:
        ``given``, unless the dataset has names of its own by which a label would mean something else: such as one
        folder fewer, so that the folders after it have other numbers. Then those, and the two do not go together.
    """
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    own = getattr(dataset, "classes", getattr(dataset, "class_names", None))
    if not isinstance(own, list | tuple | np.ndarray) or not len(own):
        return None if given is None else list(given)
    own = [str(name) for name in own]
    if given is None:
        return own
    known = {name: place for place, name in enumerate(given)}
    same = all(known.get(name, place) == place for place, name in enumerate(own))
    renamed = len(own) == len(known) or all(name in known for name in own)
    return list(given) if same and renamed else own


def places_among(own: Sequence[int], known: Sequence[int]) -> list[int] | None:
    """Where numbers stand in a list.

    Args:
        own: the numbers.
        known: the list.

    Returns:
        Their indices, the last one of each; ``None`` if some are not there.
    """
    places = {place: index for index, place in enumerate(known)}
    found = [places[place] for place in own if place in places]
    return found if len(found) == len(own) else None


def _tensor_picture(tensor: Tensor, name: str) -> Image.Image:
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        raise NotSupported(
            f"a {name} sample has shape {tuple(tensor.shape)}, which is no image [1 or 3, height, width]. Pass "
            "pictures=function(index) to ic.data.LabelledDataset to say what a person should see."
        )
    pixels = tensor.detach().float().cpu()
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 1:  # a normalised input: stretch it, its true range is unknown
        pixels = (pixels - low) / max(high - low, 1e-12)
    array = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        add_tensor(digest, tensor)
    return digest.hexdigest()
