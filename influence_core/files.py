"""Files that are written whole or not at all, and hashes that show whether one is still what was written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from influence_core.errors import InvalidInput

_PIECE = 1 << 20

_OTHER = "make room, or choose a folder that you may write"
_WAYS_OUT = {
    errno.ENOENT: "make the folder first, or choose one that exists",
    errno.ENOTDIR: "a part of the path is a file; choose a folder",
    errno.EEXIST: "a file has the name of the folder; choose another one",
    errno.EISDIR: "it is a folder; choose another name, or a file in it",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file.

    Args:
        path: the file.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that its name holds the old content or the new one, whatever happens in between.

    Args:
        path: the file; an existing one is replaced.
        content: all of it.
    """
    with writing(path), temporary(path.parent, path.name) as part:
        part.write_bytes(content)
        keep(part, path)


@contextlib.contextmanager
def temporary(folder: Path, title: str) -> Iterator[Path]:
    """A new file with a name of its own, gone after the ``with`` block unless it was renamed.

    Args:
        folder: where.
        title: what its name begins with.

    Yields:
        The path of an empty file, with the permissions that files of this process have.
    """
    part = folder / f"{title}.{secrets.token_hex(6)}.tmp"
    with part.open("xb"):
        pass
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def keep(part: Path, path: Path) -> None:
    """Give a temporary file its name, once all of it is on the disk.

    Args:
        part: from ``temporary``, written and closed.
        path: the name; an existing file is replaced.
    """
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)
    if hasattr(os, "O_DIRECTORY"):  # POSIX, where the name itself may be lost with the power
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError:  # some network file systems cannot; the file itself is safe
            pass
        finally:
            os.close(folder)


def check_encodable(path: Path) -> None:
    """Refuse a path that safetensors could not open again.

    Args:
        path: to write.

    Raises:
        UnicodeEncodeError: if it is no UTF-8, of which ``writing`` makes a sentence.
    """
    str(path).encode()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in a sentence why a file cannot be written.

    Args:
        path: for the message.

    Yields:
        Nothing.

    Raises:
        InvalidInput: for a full disk, a folder that may not be written, or a name that cannot be encoded.
    """
    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"{_shown(path)} cannot be written ({error.strerror or error}): {_WAYS_OUT.get(error.errno or 0, _OTHER)}. "
            "Nothing was changed."
        ) from error
    except InvalidInput:
        raise
    except ValueError as error:  # of which UnicodeEncodeError is one
        raise InvalidInput(
            f"{_shown(path)} cannot be written, because a name has characters that no file can hold "
            f"({_shown(error)}): take them out of it. Nothing was changed."
        ) from error


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Keep other processes and threads that ask the same out of a folder; a killed process lets go.

    Args:
        folder: an existing one.

    Yields:
        Whether the file system has such locks; without them nobody is kept out.
    """
    opened: int | None = None
    locked = False
    lock, unlock = _flock()
    try:
        if lock is not None:
            with contextlib.suppress(OSError):
                opened = os.open(folder, os.O_RDONLY)
                lock(opened)
                locked = True
        yield locked
    finally:
        if opened is not None:
            if locked and unlock is not None:  # also for a child process that was forked meanwhile
                unlock(opened)
            os.close(opened)


def _flock() -> tuple[Callable[[int], None] | None, Callable[[int], None] | None]:
    try:
        import fcntl
    except ImportError:  # Windows
        return None, None
    return lambda file: fcntl.flock(file, fcntl.LOCK_EX), lambda file: fcntl.flock(file, fcntl.LOCK_UN)


def _shown(text: object) -> str:
    """Text with what cannot be printed written out."""
    return str(text).encode("utf-8", "backslashreplace").decode()
