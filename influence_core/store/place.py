"""Where the parts of one answer lie while it is computed: shards, pieces of shards, and claims on them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from influence_core.errors import DamageWarning, InfluenceError, InvalidInput, StaleResult
from influence_core.files import writing
from influence_core.models import load_tensors, read_facts, save_tensors
from influence_core.progress import tick
from influence_core.store.claims import claimed

LOOK = 0.1
"""Seconds between two looks at what another process computes."""

DAMAGED = ".damaged"
"""What the name of a file ends with that was set aside."""

log = logging.getLogger("influence")


def folder_at(path: Path) -> Path:
    """A folder, made where it is missing.

    Args:
        path: of the folder.

    Returns:
        The same path.

    Raises:
        InvalidInput: if it cannot be made.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def set_aside(path: Path, error: Exception) -> None:
    """Keep a damaged file under another name, and say so: what was in it is computed again.

    Args:
        path: the file.
        error: what is wrong with it.
    """
    with contextlib.suppress(FileNotFoundError):
        path.replace(path.with_name(path.name + DAMAGED))
    said = f"{path} was set aside as {path.name}{DAMAGED}, and its numbers are computed again. Why: {error}"
    log.warning("%s", said)
    warnings.warn(said, DamageWarning, stacklevel=2)


@dataclass(frozen=True)
class Shard:
    """The answer for some training images, in a file.

    Attributes:
        tensors: ``values`` [n], [n, M] or [n, K]; or of a change of the weights, parameter name -> what to add.
        facts: kind, scale, coverage, meta, and ``halved``: whether memory ran out, and batches were half as large.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """The folder of one answer, as it is computed with one number of threads.

    Attributes:
        folder: of it.
        key: of the request.
    """

    folder: Path
    key: str

    def path(self, rows: range) -> Path:
        """The file of a shard."""
        return self.folder / f"rows-{rows.start:08d}-{rows.stop:08d}.safetensors"

    def has(self, rows: range) -> bool:
        """Whether a shard is finished."""
        return self.path(rows).is_file()

    def write(self, rows: range, shard: Shard) -> None:
        """Keep a finished shard.

        Raises:
            InvalidInput: if it cannot be written.
        """
        facts = {**shard.facts, "key": self.key, "rows": [rows.start, rows.stop]}
        save_tensors(self.path(rows), shard.tensors, {"shard": json.dumps(facts)})

    def read(self, rows: range) -> Shard:
        """Read a finished shard.

        Returns:
            The shard.

        Raises:
            InvalidInput: if the file is missing or damaged.
            StaleResult: if it belongs to another request.
        """
        path = self.path(rows)
        tensors, facts = load_tensors(path, sealed=True), read_facts(path, "shard")
        if not isinstance(facts, dict) or (facts.get("key"), facts.get("rows")) != (self.key, [rows.start, rows.stop]):
            raise StaleResult(f"{path} holds a part of another answer: remove it.")
        return Shard(tensors, facts)

    def whole(self, rows: range) -> bool:
        """Whether a shard is finished and as it was written; one that is not is set aside."""
        if not self.has(rows):
            return False
        try:
            self.read(rows)
        except InfluenceError as error:
            set_aside(self.path(rows), error)
            return False
        return True

    def claim(self, rows: range) -> contextlib.AbstractContextManager[bool]:
        """Try to be the one who computes a shard."""
        return claimed(self.path(rows).with_suffix(".claim"))


class Pieces:
    """Pieces of a shard, such as members of an ensemble, as files; a ``Keeper`` for ``influence_core.pieces``.

    Whoever asks for a piece that nobody has yet is the one to make it; others wait for it.

    Args:
        folder: of them.
        key: of what they belong to.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key
        self._held: dict[str, contextlib.ExitStack] = {}

    def __enter__(self) -> Pieces:
        return self

    def __exit__(self, *_: object) -> None:
        for claim in self._held.values():
            claim.close()

    def get(self, name: str) -> dict[str, Tensor] | None:
        """A piece that was kept; ``None`` where this process has to make it.

        Args:
            name: of the piece.

        Returns:
            Its tensors.
        """
        path = folder_at(self._folder) / f"{_file_name(name)}.safetensors"
        while True:
            found = self._read(path, name)
            if found is not None:
                return found
            claim = contextlib.ExitStack()
            if claim.enter_context(claimed(path.with_suffix(".claim"))):
                if (found := self._read(path, name)) is not None:
                    claim.close()
                    return found
                self._held[name] = claim
                return None
            claim.close()
            tick()
            time.sleep(LOOK)

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a piece.

        Args:
            name: of the piece.
            tensors: of it.

        Raises:
            InvalidInput: if it cannot be written.
        """
        path = self._folder / f"{_file_name(name)}.safetensors"
        on_cpu = {one: tensor.detach().cpu() for one, tensor in tensors.items()}
        save_tensors(path, on_cpu, {"piece": json.dumps([self._key, name])})
        self._held.pop(name).close()

    def _read(self, path: Path, name: str) -> dict[str, Tensor] | None:
        if not path.is_file():
            return None
        try:
            tensors = load_tensors(path, sealed=True)
            if read_facts(path, "piece") != [self._key, name]:
                raise InvalidInput(f"{path} holds a piece of another answer.")
        except InfluenceError as error:
            set_aside(path, error)
            return None
        return {one: tensor.clone() for one, tensor in tensors.items()}  # a file's tensors lie unaligned in memory


def _file_name(name: str) -> str:
    """A name that any file system takes, another one for every piece."""
    plain = re.sub(r"[^A-Za-z0-9.-]+", "_", name)[:80]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def files_below(folder: Path) -> Iterator[Path]:
    """All files of a folder and of those in it; what disappears meanwhile is left out."""
    for where, _, names in os.walk(folder):
        yield from (Path(where) / name for name in names)
