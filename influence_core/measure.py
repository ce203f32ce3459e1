"""What a piece of work cost: wall-clock seconds and peak memory."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from influence_core.imports import complete_torch
from influence_core.progress import contained
from influence_core.threads import uninterrupted, waited

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """Cost of a finished block.

    Attributes:
        seconds: wall-clock time, without what the thread waited for locks of this package.
        peak_memory_mib: highest memory above that at the start, in MiB, of the whole process: what other threads took
            in the meantime is in it. Of the allocator where there is a GPU. ``None`` where the system does not tell.
    """

    seconds: float = 0.0
    peak_memory_mib: float | None = None


@contextmanager
def measure() -> Iterator[Cost]:
    """Measure the ``with`` block; blocks may lie within each other, and overlap in other threads.

    Yields:
        A ``Cost`` that is filled in when the block ends.
    """
    complete_torch()
    cost = Cost()
    begun = _high_water.begin()
    start, already = time.perf_counter(), waited()
    try:
        with contained():
            yield cost
    finally:
        cost.seconds = time.perf_counter() - start - (waited() - already)
        cost.peak_memory_mib = _high_water.end(begun)


@dataclass(eq=False)
class _Block:
    """A block under way: memory at its start, and the most that was seen since."""

    before: float
    most: float = 0.0


class _HighWater:
    """The process's only mark of the most memory used, shared by all blocks under way.

    A block needs the mark at the level of its start, which would lower it under the feet of all others. So the mark is
    read first, whenever a block begins or ends, and noted for all of them.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a block may be ended by the garbage collector, while this is held
        self._under_way: list[_Block] = []

    def begin(self) -> _Block | None:
        with self._lock:
            self._note()
            before = _lowered_mark()
            if before is None:
                return None
            block = _Block(before)
            self._under_way.append(block)
            return block

    def end(self, block: _Block | None) -> float | None:
        if block is None:
            return None
        with uninterrupted(), self._lock:
            self._note()
            self._under_way.remove(block)
            return max(0.0, block.most - block.before)

    def _note(self) -> None:
        mark = _mark()
        for block in self._under_way:
            block.most = max(block.most, mark or 0.0)


_high_water = _HighWater()


def _mark() -> float | None:
    """The most memory since the mark was lowered, in MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return _field("VmHWM")


def _lowered_mark() -> float | None:
    """Lower the mark to what is in use, which is returned in MiB."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    if not sys.platform.startswith("linux"):
        return None
    try:
        _CLEAR_REFS.write_text("5")  # the kernel's way to reset VmHWM
    except OSError:
        return None
    return _field("VmRSS")


def _field(name: str) -> float | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    return None
