"""What a store holds: listing, checking and removing."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pandas as pd

from influence_core.errors import InfluenceError, InvalidInput
from influence_core.models import load_tensors
from influence_core.store.claims import claimed
from influence_core.store.compute import FITTED
from influence_core.store.place import files_below
from influence_core.store.result import RESULT, forget_verified
from influence_core.store.result import verify as verify_result
from influence_core.store.sealed import read_sealed

ABOUT, IN_USE = "about.json", "in-use"

_ROOMS: dict[str, tuple[Literal["answer", "fit"], str]] = {"works": ("answer", "*/*"), "fits": ("fit", "*")}
"""Folder -> what is in it, and where in it."""


@dataclass(frozen=True)
class Entry:
    """An answer or a fitted estimator in a store.

    Attributes:
        key: its name, 32 hexadecimal digits.
        kind: "answer" or "fit".
        study: name of the study.
        title: what it is, for a person.
        state: "finished", "parts" (shards or pieces of one that was broken off) or "damaged".
        bytes: of its files.
        used: when somebody asked for it last, in UTC.
        path: of its folder.
    """

    key: str
    kind: Literal["answer", "fit"]
    study: str
    title: str
    state: Literal["finished", "parts", "damaged"]
    bytes: int
    used: datetime
    path: Path


@dataclass(frozen=True)
class Damage:
    """A file that is not as it was written.

    Attributes:
        path: of the file.
        error: what is wrong, in a sentence.
    """

    path: Path
    error: str


def entries(root: Path) -> list[Entry]:
    """All that a store holds, what was used last first."""
    found = [
        _entry(folder, kind)
        for room, (kind, pattern) in _ROOMS.items()
        for folder in sorted((root / room).glob(pattern))
        if folder.is_dir()
    ]
    return sorted((one for one in found if one is not None), key=lambda one: one.used, reverse=True)


def to_frame(found: Sequence[Entry]) -> pd.DataFrame:
    """Entries as a table."""
    columns = ["key", "kind", "study", "title", "state", "bytes", "used"]
    return pd.DataFrame([asdict(one) for one in found], columns=[*columns, "path"])[columns]


def remove(root: Path, keys: Sequence[str]) -> list[Entry]:
    """Remove entries; see ``Store.remove``."""
    there = entries(root)
    chosen: list[Entry] = []
    for key in keys:
        hits = [one for one in there if key and one.key.startswith(key)]
        if len({one.key for one in hits}) != 1:
            what = f"{len(hits)} results begin" if hits else "no result begins"
            raise InvalidInput(
                f"{what} with {key!r} in {root}: take more digits of a key that 'influence store ls' shows"
            )
        chosen += hits
    for one in chosen:
        if not _remove(one):
            raise InvalidInput(f"{one.title} ({one.key[:12]}) is in use just now: cancel its job first, or wait")
    return chosen


def evict(root: Path, budget: float) -> list[Entry]:
    """Remove what was used longest ago until the rest fits; see ``Store.evict``."""
    there = entries(root)
    total, removed = sum(one.bytes for one in there), []
    for one in reversed(there):
        if total <= budget:
            break
        if _remove(one):
            total -= one.bytes
            removed.append(one)
    return removed


def verify(root: Path) -> list[Damage]:
    """Compare every file with its hash; see ``Store.verify``."""
    forget_verified()
    found: list[Damage] = []
    for one in entries(root):
        for path in sorted(files_below(one.path)):
            try:
                if path.name == RESULT:
                    verify_result(path.parent, read_sealed(path))
                elif path.name == ABOUT:
                    read_sealed(path)
                elif path.suffix == ".safetensors":
                    load_tensors(path, sealed=True)
            except InfluenceError as error:
                if path.exists():  # else it was removed meanwhile
                    found.append(Damage(path, str(error)))
    return found


def _entry(folder: Path, kind: Literal["answer", "fit"]) -> Entry | None:
    size, stamps = 0, [0.0]
    whole = parts = False
    for path in files_below(folder):
        with contextlib.suppress(OSError):  # removed meanwhile
            there = path.stat()
            size += there.st_size
            if path.name in (IN_USE, ABOUT):
                stamps.append(there.st_mtime)
            whole |= path.name in (RESULT, FITTED)
            parts |= path.suffix == ".safetensors"
    if not folder.is_dir():
        return None
    try:
        about = read_sealed(folder / ABOUT)
        study, title, state = str(about["study_name"]), str(about["title"]), "finished" if whole else "parts"
    except (InfluenceError, KeyError):
        study, title, state = "", f"unknown: {folder.name}", "damaged" if parts or whole else "parts"
    used = datetime.fromtimestamp(max(stamps), UTC)
    return Entry(folder.name, kind, study, title, state, size, used, folder)  # type: ignore[arg-type]


def _remove(entry: Entry) -> bool:
    """Remove an entry, unless somebody uses it just now."""
    with contextlib.suppress(FileNotFoundError), claimed(entry.path / IN_USE) as mine:
        if not mine:
            return False
        # result.json first: what is left of a removal that was broken off is no answer
        for path in sorted(files_below(entry.path), key=lambda path: path.name != RESULT):
            if path.name != IN_USE:
                path.unlink(missing_ok=True)
        shutil.rmtree(entry.path, ignore_errors=True)
    return True
