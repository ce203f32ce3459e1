"""Reading datasets of other people: one thread at a time, and refused if a sample is not the same twice."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from influence_core.data.transforms import refuse_random
from influence_core.errors import InvalidInput


class ReadingLock:
    """A lock that one thread may take several times; a class of its own, so that it can be referred to weakly."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


_locks: weakref.WeakValueDictionary[int, ReadingLock] = weakref.WeakValueDictionary()
_guard = threading.Lock()


def reading_lock(base: Any) -> ReadingLock:
    """The lock of a dataset, which may keep an open file with one position in it.

    Two subsets of one dataset (``torch.utils.data.random_split``) have the same.

    Args:
        base: a map-style dataset, which whoever takes the lock keeps alive.

    Returns:
        The lock.
    """
    while isinstance(base, Subset):
        base = base.dataset
    with _guard:
        lock = _locks.get(id(base))
        if lock is None:
            lock = _locks[id(base)] = ReadingLock()
        return lock


def spread_ids(size: int, most: int = 32) -> Tensor:
    """Ids spread evenly over a dataset; all of a small one.

    Args:
        size: N.
        most: how many of a large dataset; one of up to twice as many samples is taken whole.

    Returns:
        Ids, int64, ascending.
    """
    return torch.arange(size) if size <= 2 * most else torch.linspace(0, size - 1, most).long()


def check_repeatable(data: Any) -> None:
    """Refuse a dataset that gives another input when a sample is read again.

    Args:
        data: a ``LabelledDataset``.

    Raises:
        InvalidInput: naming the sample.
    """
    if isinstance(data.base, TensorDataset):
        return
    below = data.root()[0]
    while isinstance(below, Subset):
        below = below.dataset
    for attribute in ("transform", "transforms"):
        refuse_random(getattr(below, attribute, None), data.name)
    for index in spread_ids(len(data)).tolist():
        first, second = (data.batch([index])[0] for _ in range(2))
        if first.shape != second.shape or not torch.equal(first.nan_to_num(), second.nan_to_num()):
            raise InvalidInput(
                f"{data.name} sample {index} is not the same when it is read twice: its transform is random (an "
                "augmentation, dropout or noise), and no result could be repeated. Give the study the dataset with "
                "the transform of evaluation; ic.training.fit(..., augment=...) augments while training."
            )
