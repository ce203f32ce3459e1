"""Memory: keeping freed pages in the process, and how many samples fit a budget."""

from __future__ import annotations

import ctypes
import functools
import sys

MIB = 2**20
ROWS_BYTES = 32 * MIB
"""Explicit per-sample gradients of one parameter are formed in pieces of at most this size."""

GRAM_BYTES = 8 * MIB
"""Gram matrices of positions are formed in pieces of at most this size."""

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


@functools.cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory in the process instead of returning it to the system after every batch.

    A sweep frees and allocates the same tens of megabytes for every batch. By default each of these is mapped and
    unmapped, and the page faults cost more than the arithmetic of a small model. Done once per process, on the first
    sweep; does nothing where the C library is not glibc.

    Returns:
        Whether the setting took.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(mallopt(_M_MMAP_THRESHOLD, 64 * MIB)) and bool(mallopt(_M_TRIM_THRESHOLD, 256 * MIB))


def batch_size_for(memory_mib: float, bytes_per_sample: float, samples: int, most: int = 64) -> int:
    """Number of samples per batch whose activations and gradients stay within a budget.

    Args:
        memory_mib: Budget in MiB for everything that grows with the batch.
        bytes_per_sample: What one sample takes.
        samples: Number of samples there are.
        most: Never more than this: beyond it nothing is gained, and the caches are left.

    Returns:
        At least 1.
    """
    return int(max(1, min(most, max(samples, 1), memory_mib * MIB // max(bytes_per_sample, 1.0))))
