"""Claims: who computes what, among any number of processes and threads. A process that is killed lets go of its own.

A claim is a lock of the operating system on a small file. Where a file system has no such locks everybody gets every
claim: a shard may then be computed twice, and has the same bytes both times.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from influence_core.files import writing


@contextlib.contextmanager
def claimed(path: Path, shared: bool = False) -> Iterator[bool]:
    """Try to get a claim; never waits.

    Args:
        path: of the file that stands for it; made where it is missing, in an existing folder.
        shared: whether others may have it at the same time, who ask for it shared as well.

    Yields:
        Whether it was got; it is given back after the ``with`` block.

    Raises:
        FileNotFoundError: if the folder is not there.
        InvalidInput: if the file cannot be written.
    """
    opened = _opened(path)
    got = False
    try:
        got = _lock(opened, shared)
        if got and not _same(opened, path):
            got = False  # removed meanwhile: a lock on a file that has no name any more says nothing
        yield got
    finally:
        if (
            got and (fcntl := _fcntl()) is not None
        ):  # said, for a child process that was forked meanwhile holds the file as well
            with contextlib.suppress(OSError):
                fcntl.flock(opened, fcntl.LOCK_UN)
        os.close(opened)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:  # the folder was removed meanwhile
        raise
    except OSError:
        with writing(path):
            raise


def _lock(opened: int, shared: bool) -> bool:
    fcntl = _fcntl()
    if fcntl is None:
        return True
    try:
        fcntl.flock(opened, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no such locks here
        return True
    return True


def _same(opened: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(opened)
    return (mine.st_ino, mine.st_dev) == (there.st_ino, there.st_dev)


def _fcntl() -> Any:
    """The module with the locks; ``None`` on Windows."""
    try:
        import fcntl
    except ImportError:
        return None
    return fcntl
