"""A finished answer on disk: raw numbers that are mapped into memory, the facts about them, and a table for others.

``values.npy`` has the numbers, column after column, so that those of one test image lie together; any version of NumPy
maps it. ``scores.parquet`` has ids and scores for pandas and DuckDB, or ``top.parquet`` the extreme ones of each test
image where there are many. ``result.json`` names them with their hashes and is written last: without it there is no
answer.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from influence_core.errors import InvalidInput, StaleResult
from influence_core.files import keep, sha256_of, temporary, writing
from influence_core.models import load_tensors, save_tensors
from influence_core.store.place import Place, Shard
from influence_core.store.sealed import read_sealed, write_sealed
from influence_core.store.tables import WIDE, write_scores, write_top
from influence_core.store.task import Task

Result = Any
"""What a task answers: ``Scores``, a ``ParameterChange``, or what else it makes of its numbers."""

RESULT, VALUES, CHANGE = "result.json", "values.npy", "change.safetensors"
_AS_BITS = {torch.bfloat16: torch.int16}
"""Kinds of numbers that NumPy has not, and those that hold their bits."""

_verified: dict[Path, tuple[int, ...]] = {}
_guard = threading.Lock()


def assemble(place: Place, task: Task, cut: Mapping[str, Any]) -> None:
    """Make the answer out of its shards, one of which is in memory at a time; the shards are not removed.

    Args:
        place: of the shards.
        task: that they answer.
        cut: how it was cut, for the facts.

    Raises:
        InvalidInput: if a shard is damaged, or a file cannot be written.
    """
    shards = task.shards()
    facts: dict[str, Any] = {"key": task.key, "study": task.study.fingerprint, "cut": dict(cut)}
    if task.is_change:
        only = place.read(shards[0])
        save_tensors(place.folder / CHANGE, only.tensors)
        facts |= {"meta": dict(only.facts["meta"]), "files": _hashes(place.folder, [CHANGE])}
    else:
        first = place.read(shards[0]).tensors["values"]
        shape = (sum(len(rows) for rows in shards), *first.shape[1:])
        facts |= _joined(_write_values(place, shards, shape, first.dtype), shards)
        facts |= {"shape": list(shape), "dtype": str(first.dtype).removeprefix("torch.")}
        values = _mapped(place.folder / VALUES, shape, first.dtype)
        names = task.column_names(shape)
        if len(names) <= WIDE:
            write_scores(place.folder, values, names)
            files = [VALUES, "scores.parquet"]
        else:
            write_top(place.folder, values, task.test or ())
            files = [VALUES, "top.parquet"]
        facts["files"] = _hashes(place.folder, files)
    write_sealed(place.folder / RESULT, facts)


def open_result(folder: Path, task: Task) -> Result:
    """Read a finished answer; its numbers stay on the disk until they are looked at.

    Args:
        folder: of it.
        task: that it answers.

    Returns:
        Scores, or the change of the weights.

    Raises:
        InvalidInput: if a file is damaged.
        StaleResult: if it answers another task.
    """
    facts = read_sealed(folder / RESULT)
    if (facts.get("key"), facts.get("study")) != (task.key, task.study.fingerprint):
        raise StaleResult(f"{folder} holds the answer to another request: remove it.")
    verify(folder, facts)
    meta = {**facts["meta"], "stored": facts["key"]}
    if task.is_change:
        change = load_tensors(folder / CHANGE, sealed=True)
        return task.answer_tensors(change, meta)
    values = _mapped(folder / VALUES, tuple(facts["shape"]), getattr(torch, facts["dtype"]))
    return task.answer(values, torch.arange(len(values)), facts | {"meta": meta})


def joined(shards: Sequence[Shard], rows: Sequence[range]) -> dict[str, Any]:
    """The facts of some shards as those of one answer."""
    return _joined([shard.facts for shard in shards], rows)


def verify(folder: Path, facts: Mapping[str, Any]) -> None:
    """Compare the files of an answer with their hashes, once in each process as long as they stay as they are.

    Args:
        folder: of the answer.
        facts: of its ``result.json``.

    Raises:
        InvalidInput: naming the file that is missing or damaged.
    """
    for name, digest in facts["files"].items():
        path = folder / name
        try:
            there = path.stat()
        except OSError as error:
            raise InvalidInput(f"{path} is missing, so that the answer is not whole: remove its folder.") from error
        state = (there.st_ino, there.st_size, there.st_mtime_ns)
        with _guard:
            if _verified.get(path) == state:
                continue
        if sha256_of(path) != digest:
            raise InvalidInput(f"{path} was changed or damaged after it was written (its checksum differs).")
        with _guard:
            _verified[path] = state


def forget_verified() -> None:
    """Compare all hashes again from now on."""
    with _guard:
        _verified.clear()


def _joined(facts: Sequence[Mapping[str, Any]], rows: Sequence[range]) -> dict[str, Any]:
    first = dict(facts[0])
    metas = [one["meta"] for one in facts]
    meta = dict(metas[0])
    meta["seconds"] = sum(one["seconds"] for one in metas)
    for name in ("peak_memory_mib", "residual", "iterations"):
        known = [one[name] for one in metas if isinstance(one.get(name), (int, float))]
        if known:
            meta[name] = max(known)
    if "converged" in meta:
        meta["converged"] = all(bool(one.get("converged", True)) for one in metas)
    warned = [sentence for one in metas for sentence in one.get("warnings", ())]
    halved = sum(bool(one.get("halved")) for one in facts)
    if halved:
        warned.append(
            f"Memory ran out: {halved} of {len(rows)} parts were computed with half the batch, which gives the same "
            "numbers but for rounding"
        )
    if warned:
        meta["warnings"] = list(dict.fromkeys(warned))
    return {name: value for name, value in first.items() if name not in ("key", "rows", "halved")} | {"meta": meta}


def _write_values(
    place: Place, shards: Sequence[range], shape: tuple[int, ...], dtype: torch.dtype
) -> list[Mapping[str, Any]]:
    """Put the numbers of all shards into one file, in one pass over them; gives the facts of each."""
    path, facts = place.folder / VALUES, []
    with writing(path), temporary(path.parent, path.name) as part:
        kind = torch.empty(0, dtype=_AS_BITS.get(dtype, dtype)).numpy().dtype
        out = np.lib.format.open_memmap(part, mode="w+", dtype=kind, shape=shape, fortran_order=True)
        for rows in shards:
            shard = place.read(rows)
            facts.append(shard.facts)
            out[rows.start : rows.stop] = shard.tensors["values"].view(_AS_BITS.get(dtype, dtype)).numpy()
        out.flush()
        del out
        keep(part, path)
    return facts


def _mapped(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The numbers of a ``values.npy``: pages of the file, which are read when they are needed; changes stay private."""
    size = torch.empty(0, dtype=dtype).element_size()
    count = int(np.prod(shape))
    total = os.path.getsize(path)
    if total < count * size:
        raise InvalidInput(f"{path} was cut short.")
    storage = torch.UntypedStorage.from_file(str(path), False, total)
    flat = torch.empty(0, dtype=dtype).set_(storage, (total - count * size) // size, (count,), (1,))  # type: ignore[arg-type]
    if len(shape) == 1:
        return flat
    return flat.view(shape[1], shape[0]).T


def _hashes(folder: Path, names: Sequence[str]) -> dict[str, str]:
    return {name: sha256_of(folder / name) for name in names}
