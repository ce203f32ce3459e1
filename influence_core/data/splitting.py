"""Training, validation and test sets of one dataset, the same at every call, with all classes in each."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from influence_core.data.dataset import LabelledDataset
from influence_core.data.wrapping import wrap
from influence_core.errors import InvalidInput, NotSupported


class Split(NamedTuple):
    """Three disjoint parts that together are the whole; ``None`` for a part of share 0."""

    train: LabelledDataset
    validation: LabelledDataset | None
    test: LabelledDataset | None


def split(dataset: Dataset[Any], validation: float = 0.1, test: float = 0.1, seed: int = 0) -> Split:
    """Split a dataset at random, with the same share of every class in each part, where labels are classes.

    Each part keeps file paths, sample ids, true labels, pictures and the order of the dataset. A study that is saved
    with it refers to the dataset and the numbers of its samples; nothing is copied.

    Args:
        dataset: from one of the loaders, or any other that a study takes.
        validation: share of the samples for validation, 0 for none.
        test: share of the samples for the test set, 0 for none.
        seed: of the draw.

    Returns:
        The parts, named "train", "validation" and "test". Classes are those of the given labels. The sizes are the
        shares of N, rounded, unless classes are so small that they would be missing from the training set.

    Raises:
        InvalidInput: if the shares are negative or leave no training set, or a part would be empty.
    """
    dataset = wrap(dataset, "train")
    shares = {"test": test, "validation": validation}
    if min(shares.values()) < 0 or not sum(shares.values()) < 1:
        raise InvalidInput(f"validation={validation} and test={test}: they are shares from 0, together below 1")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(dataset), generator=generator)
    classes = _classes(dataset, order)
    parts: dict[str, LabelledDataset | None] = {}
    left = torch.tensor([len(members) for members in classes])
    begin = torch.zeros_like(left)
    for name, share in shares.items():
        counts = _counts(torch.tensor([len(members) for members in classes]), share, left - 1)
        ids = torch.cat([m[b : b + c] for m, b, c in zip(classes, begin.tolist(), counts.tolist(), strict=True)])
        if share > 0 and not len(ids):
            raise InvalidInput(f"{name}={share} of {len(dataset)} samples is none: give a larger share, or 0")
        parts[name] = _part(dataset, ids, name) if share > 0 else None
        begin, left = begin + counts, left - counts
    rest = torch.cat([m[b:] for m, b in zip(classes, begin.tolist(), strict=True)])
    return Split(_part(dataset, rest, "train"), parts["validation"], parts["test"])


def _classes(dataset: LabelledDataset, order: Tensor) -> list[Tensor]:
    """The samples of each class in some order; all of them as one where labels are no classes."""
    try:
        labels = dataset.labels
    except NotSupported:  # their shapes differ
        return [order]
    if labels.dim() != 1 or labels.is_floating_point() or not len(labels):
        return [order]
    return [order[labels[order] == k] for k in torch.unique(labels).tolist()]


def _counts(sizes: Tensor, share: float, most: Tensor) -> Tensor:
    """How many of each class: the share of it, rounded so that the sum is right, and never all that are left."""
    exact = sizes.double() * share
    counts = torch.minimum(exact.floor().long(), most)
    missing = round(float(sizes.sum()) * share) - int(counts.sum())
    for k in torch.sort(exact - exact.floor(), descending=True, stable=True).indices.tolist():
        if missing > 0 and int(counts[k]) < int(most[k]):
            counts[k] += 1
            missing -= 1
    return counts


def _part(dataset: LabelledDataset, ids: Tensor, name: str) -> LabelledDataset:
    part = dataset.subset(ids.sort().values)
    part.name = name
    return part
