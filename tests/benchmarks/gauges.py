"""What benchmarks read: seconds of the clock and of the processor, and the most memory, of this process alone."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass


@dataclass
class Spent:
    """What a block cost.

    Attributes:
        seconds: of the clock.
        cpu: seconds of the processor, all threads together.
        peak: MiB above the start, at most.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    peak: float = 0.0

    def facts(self) -> dict[str, float]:
        """The same by name."""
        return asdict(self)


@contextlib.contextmanager
def spent() -> Iterator[Spent]:
    """Measure the ``with`` block; all that was freed before goes back to the system first."""
    found = Spent()
    before = settled_memory()
    begun, cpu = time.perf_counter(), time.process_time()
    yield found
    found.seconds, found.cpu = time.perf_counter() - begun, time.process_time() - cpu
    found.peak = memory("VmHWM") - before


def settled_memory() -> float:
    """Resident MiB after everything freed went back to the system; the peak counts from here on."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return memory("VmRSS")


def memory(field: str) -> float:
    """A line of the kernel's notes about this process, in MiB."""
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith(field))
    return int(line.split()[1]) / 1024
