"""How many samples go through a model at once: decided here, and nowhere else.

No result depends on it, which ``ic.testing`` checks by setting it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

FORWARD = 256
"""Samples of a pass that keeps nothing but outputs, or features of a layer."""

OUTPUT_MATRICES = 256
"""Samples of a pass that also keeps a K x K matrix, or activations, of each."""

_MIB = 2**20
_set: ContextVar[int | None] = ContextVar("influence_core_batch_size", default=None)
_share: ContextVar[int] = ContextVar("influence_core_batch_share", default=1)


@contextmanager
def batches_of(size: int) -> Iterator[None]:
    """Every loop of the package over a dataset takes batches of this size, inside the ``with`` block.

    It holds for the thread (the ``contextvars`` context) that sets it. A training's own batches are part of its recipe
    and stay as they are.

    Args:
        size: samples per batch.

    Yields:
        Nothing; the former size is back afterwards.
    """
    token = _set.set(size)
    try:
        yield
    finally:
        _set.reset(token)


@contextmanager
def halved() -> Iterator[None]:
    """Every loop of the package takes batches of half the size, inside the ``with`` block: memory ran out.

    Yields:
        Nothing; the former size is back afterwards.
    """
    token = _share.set(2 * _share.get())
    try:
        yield
    finally:
        _share.reset(token)


def samples_at_once(most: int = FORWARD) -> int:
    """Number of samples of a batch where nothing but a fixed limit counts.

    Args:
        most: ``FORWARD`` or ``OUTPUT_MATRICES``.

    Returns:
        The limit, or what ``batches_of`` says.
    """
    return max(1, (_set.get() or most) // _share.get())


def id_batches(count: int, most: int = FORWARD) -> Iterator[Tensor]:
    """The ids of all samples, a batch at a time.

    Args:
        count: number of samples.
        most: as of ``samples_at_once``.

    Yields:
        Ids, int64 [B].
    """
    yield from torch.arange(count).split(samples_at_once(most))


def batch_size_for(memory_mib: float, bytes_per_sample: float, samples: int, most: int = 64) -> int:
    """Number of samples per batch whose activations and gradients stay within a budget.

    Args:
        memory_mib: budget in MiB for everything that grows with the batch.
        bytes_per_sample: what one sample takes.
        samples: number of samples there are.
        most: never more than this: beyond it nothing is gained, and the caches are left.

    Returns:
        At least 1; or what ``batches_of`` says.
    """
    fitting = memory_mib * _MIB // max(bytes_per_sample, 1.0)
    whole = _set.get() or int(max(1, min(most, max(samples, 1), fitting)))
    return max(1, whole // _share.get())
