"""What a piece of work cost: wall-clock seconds and peak memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """Cost of a finished block.

    Attributes:
        seconds: wall-clock time.
        peak_memory_mib: highest memory above that at the start, in MiB: of the process on a CPU, of the
            allocator on a GPU. ``None`` where the system does not tell.
    """

    seconds: float = 0.0
    peak_memory_mib: float | None = None


@contextmanager
def measure() -> Iterator[Cost]:
    """Measure the ``with`` block.

    Yields:
        A ``Cost`` that is filled in when the block ends.
    """
    cost = Cost()
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
        before: float | None = torch.cuda.memory_allocated() / 2**20
    else:
        before = _reset_high_water_mark()
    start = time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated() / 2**20 if gpu else _field("VmHWM")
        if before is not None and peak is not None:
            cost.peak_memory_mib = max(0.0, peak - before)


def _reset_high_water_mark() -> float | None:
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
