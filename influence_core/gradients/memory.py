"""Memory: keeping freed pages in the process, and in which pieces large things are formed."""

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
