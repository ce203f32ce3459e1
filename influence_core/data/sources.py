"""Where pictures come from: files, bytes in a table, or pixels in memory; each with a SHA-256 of what it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from influence_core.data.opening import check_plain, content_of, decoded
from influence_core.errors import InvalidInput

KEPT = 16
"""Bytes of a SHA-256 that a study keeps of each picture file."""


class Source:
    """Pictures that can be read one at a time, by several threads at once.

    Attributes:
        as_stored: whether a transform gets grey pictures as grey, instead of in colour as ``ImageFolder`` would.
    """

    as_stored = False

    def __len__(self) -> int:
        """Number of pictures."""
        raise NotImplementedError

    def image(self, index: int, upright: bool = False) -> Image.Image:
        """Picture ``index``, in mode L or RGB; ``upright`` as a person should see it."""
        raise NotImplementedError

    def sha256(self, index: int) -> bytes:
        """SHA-256 of what is stored of picture ``index``, 32 bytes."""
        raise NotImplementedError

    def content(self, index: int) -> bytes | None:
        """The bytes of the picture's file, where it has one."""
        return None

    @property
    def at_hand(self) -> bool:
        """Whether all can be hashed in a moment."""
        return True


class Rows(Source):
    """Picture files in memory, as a table holds them.

    Args:
        rows: a list of bytes, or a column of pyarrow.
        title: what messages call row ``i``: ``title(i)``.
    """

    def __init__(self, rows: Any, title: Any = None) -> None:
        self.rows = rows
        self.title = title

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def _called(self, index: int) -> str:
        return f"image {index}" if self.title is None else str(self.title[index])

    def content(self, index: int) -> bytes:
        """The bytes of the picture's file."""
        row = self.rows[index]
        row = row.as_py() if hasattr(row, "as_py") else row
        found = row.get("bytes") if isinstance(row, dict) else row
        if not isinstance(found, bytes):
            raise InvalidInput(
                f"{self._called(index)} has {type(found).__name__} where the bytes of a picture should be"
            )
        return found

    def image(self, index: int, upright: bool = False) -> Image.Image:
        """Decoded anew at each call."""
        return decoded(self.content(index), self._called(index), upright)

    def sha256(self, index: int) -> bytes:
        """Of the bytes of the file."""
        return hashlib.sha256(self.content(index)).digest()


class Files(Source):
    """Picture files on a disk. A file that is not the same when it is read again is refused.

    Args:
        root: the folder that relative names count from, or ``None``.
        names: of the files.
    """

    def __init__(self, root: Path | None, names: Sequence[str | Path]) -> None:
        self.root = None if root is None else root.absolute()
        self.names = [str(name) for name in names]
        self._hashes: list[bytes | None] = [None] * len(self.names)
        self._sizes: list[int] = [0] * len(self.names)
        self._saved = False
        self.total: int | None = None

    def __len__(self) -> int:
        """Number of files."""
        return len(self.names)

    def path(self, index: int) -> Path:
        """The file of picture ``index``."""
        return Path(self.names[index]) if self.root is None else self.root / self.names[index]

    def size(self, index: int) -> int:
        """Bytes of the file."""
        self.sha256(index)
        return self._sizes[index]

    def expect(self, ids: Sequence[int], sizes: Sequence[int], hashes: Sequence[bytes]) -> None:
        """Say what a study was saved with; sizes are compared at once, hashes whenever a file is read.

        Args:
            ids: which files.
            sizes: in bytes.
            hashes: the first ``KEPT`` bytes of each SHA-256.

        Raises:
            InvalidInput: naming the first file that is missing or has another size.
        """
        self._saved, self.total = True, sum(sizes)
        for index, size, sha256 in zip(ids, sizes, hashes, strict=True):
            file = self.path(index)
            check_plain(file)
            try:
                have = file.stat().st_size
            except OSError as error:
                raise InvalidInput(
                    f"there is no file {file}, which the study needs ({error.strerror}): put it back, or copy the "
                    "whole folder again"
                ) from error
            if have != size:
                raise InvalidInput(self._other(file, f"it has {have:,} bytes, not {size:,}"))
            self._hashes[index] = sha256

    @property
    def at_hand(self) -> bool:
        """Whether the files of a study are few enough to hash all of them when it is opened."""
        return self.total is not None and self.total <= 64 << 20

    def content(self, index: int) -> bytes:
        """All of the file, compared with what was there before."""
        file = self.path(index)
        content = content_of(file)
        sha256, known = hashlib.sha256(content).digest(), self._hashes[index]
        if known is not None and not sha256.startswith(known):
            raise InvalidInput(self._other(file, "its SHA-256 differs"))
        self._sizes[index], self._hashes[index] = len(content), sha256
        return content

    def image(self, index: int, upright: bool = False) -> Image.Image:
        """Decoded anew at each call."""
        return decoded(self.content(index), str(self.path(index)), upright)

    def sha256(self, index: int) -> bytes:
        """Of the file; it is read once, and compared with the first reading at every later one."""
        known = self._hashes[index]
        if known is None or len(known) < 32:
            self.content(index)
            known = self._hashes[index]
        assert known is not None
        return known

    def _other(self, file: Path, because: str) -> str:
        former = "the study was saved with" if self._saved else "was read before"
        return (
            f"{file} is not the picture that {former} ({because}): it was damaged or exchanged. Put the former one "
            "back, or make the study anew from the pictures as they are now"
        )


class Pixels(Source):
    """Pictures as ``uint8`` arrays in memory, as torchvision keeps CIFAR and MNIST.

    Args:
        arrays: [N, H, W] for grey or [N, H, W, 3] for colour, ``uint8``.
    """

    as_stored = True

    def __init__(self, arrays: np.ndarray) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.arrays)

    def image(self, index: int, upright: bool = False) -> Image.Image:
        """Mode L or RGB."""
        return Image.fromarray(np.ascontiguousarray(self.arrays[index]))

    def sha256(self, index: int) -> bytes:
        """Of the pixels, row by row, and their shape."""
        pixels = np.ascontiguousarray(self.arrays[index])
        return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest()


def as_source(sources: Source | Sequence[bytes | Path]) -> Source:
    """A source of a list of bytes or paths; one that is one already is kept."""
    if isinstance(sources, Source):
        return sources
    if len(sources) and isinstance(sources[0], Path):
        return Files(None, [file for file in sources if isinstance(file, Path)])
    return Rows(sources)
