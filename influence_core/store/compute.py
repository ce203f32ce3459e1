"""Computing an answer shard by shard, in any number of processes and threads at once.

Everyone runs the same loop: take the first shard that nobody has and nobody computes, compute it, write it. The files
say what is done, claims say who does what, and there is nothing else to agree on.
"""

from __future__ import annotations

import gc
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from influence_core.batches import halved
from influence_core.errors import InfluenceError, NotSupported
from influence_core.estimators import Estimator
from influence_core.pieces import keeping
from influence_core.progress import tick, track
from influence_core.store.claims import claimed
from influence_core.store.place import LOOK, Pieces, Place, Shard, folder_at, set_aside
from influence_core.store.result import RESULT, assemble
from influence_core.store.task import Task

FITTED = "estimator.safetensors"
PIECES, HALVED = "pieces", "pieces-halved"
"""Folders; what is begun anew with half the batch has pieces of its own."""

log = logging.getLogger("influence")


def cut_of(task: Task) -> dict[str, Any]:
    """What else the last bits of numbers depend on: how an answer is cut, the threads, the device, and torch.

    Args:
        task: the question.

    Returns:
        Facts in plain values.
    """
    return {
        "rows": len(task.shards()[0]),
        "threads": torch.get_num_threads(),
        "device": task.study.device.type,
        "torch": torch.__version__,
    }


def cut_name(cut: dict[str, Any]) -> str:
    """The name of its folder."""
    return f"rows{cut['rows']}-threads{cut['threads']}-{cut['device']}-torch{cut['torch']}"


def fitted(task: Task, folder: Path) -> Estimator | None:
    """The fitted estimator of a task: from its file, or fitted now, once for all who ask.

    Args:
        task: the question.
        folder: of the fit.

    Returns:
        The estimator; ``None`` where the task needs none. Where what it learned cannot be saved, it is fitted in each
        process.

    Raises:
        InvalidInput: if the file cannot be written.
    """
    if task.estimator is None:
        return None
    path = folder_at(folder) / FITTED
    while True:
        found = _loaded(task, path)
        if found is not None:
            return found
        with claimed(folder / "fit.claim") as mine:
            if mine:
                return _loaded(task, path) or _fit(task, folder, path)
        for _ in track(iter((None,)), f"{task.estimator.title}: another process fits it; this one waits"):
            time.sleep(LOOK)  # a step, so that it can be stopped


def compute(task: Task, place: Place, fit: Callable[[], Estimator | None]) -> None:
    """Compute the shards that are missing, and put the answer together.

    Args:
        task: the question.
        place: of the shards; finished ones are in it already.
        fit: gives the fitted estimator.

    Raises:
        InvalidInput: if a file cannot be written.
    """
    shards = task.shards()
    if not all(place.whole(rows) for rows in shards):
        estimator = fit()
        for _ in track(_finished(task, place, estimator, shards), task.title, len(shards)):
            pass
    told = False
    while not (place.folder / RESULT).is_file():
        with claimed(place.folder / "result.claim") as mine:
            if mine and not (place.folder / RESULT).is_file():
                assemble(place, task, cut_of(task))
        if not mine:
            told = _tell(told, f"{task.title}: another process writes the answer; this one waits")
    tidy(place.folder)


def tidy(folder: Path) -> None:
    """Remove the parts of an answer that is whole."""
    for path in folder.glob("rows-*"):
        path.unlink(missing_ok=True)
    for pieces in (PIECES, HALVED):
        shutil.rmtree(folder / pieces, ignore_errors=True)


def _finished(task: Task, place: Place, estimator: Estimator | None, shards: list[range]) -> Iterator[range]:
    """Each shard once it is finished, by whomever."""
    left, told = list(shards), False
    while left:
        mine = False
        for rows in list(left):
            if place.has(rows):
                left.remove(rows)
                yield rows
                continue
            if (place.folder / RESULT).is_file():  # whole by now, and its parts are gone
                left.remove(rows)
                yield rows
                continue
            with place.claim(rows) as got:
                if not got or place.has(rows) or (place.folder / RESULT).is_file():
                    continue
                place.write(rows, _shard(task, place, estimator, rows))
                mine = True
            left.remove(rows)
            yield rows
        if left and not mine and not any(place.has(rows) for rows in left):
            told = _tell(told, f"{task.title}: another process computes the rest; this one waits")


def _shard(task: Task, place: Place, estimator: Estimator | None, rows: range) -> Shard:
    try:
        return _computed(task, place, estimator, rows, False)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, InfluenceError) or not _out_of_memory(error):
            raise
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    log.warning(
        "%s: memory ran out; images %d to %d are tried with half the batch", task.title, rows.start, rows.stop - 1
    )
    with halved():
        return _computed(task, place, estimator, rows, True)


def _computed(task: Task, place: Place, estimator: Estimator | None, rows: range, again: bool) -> Shard:
    folder = place.folder / (HALVED if again else PIECES)
    with Pieces(folder, task.key) as pieces, keeping(pieces):
        shard = task.compute(estimator, rows)
    return Shard(shard.tensors, {**shard.facts, "halved": again})


def _loaded(task: Task, path: Path) -> Estimator | None:
    if task.estimator is None or not path.is_file():
        return None
    try:
        return type(task.estimator).load(path, task.study)
    except InfluenceError as error:
        set_aside(path, error)
        return None


def _fit(task: Task, folder: Path, path: Path) -> Estimator:
    assert task.estimator is not None
    estimator = type(task.estimator)(**task.estimator.get_params())
    with Pieces(folder / PIECES, task.fit_key) as pieces, keeping(pieces):
        estimator.fit(task.study)
    try:
        estimator.save(path)
    except NotSupported as error:
        log.info("%s: what it learned is not kept: %s", estimator.title, error)
        return estimator
    shutil.rmtree(folder / PIECES, ignore_errors=True)
    return type(task.estimator).load(path, task.study)  # as all others see it: aligned in memory alike


def _tell(told: bool, words: str) -> bool:
    """Say once that this process waits, and wait for a moment."""
    if not told:
        log.info("%s", words)
    tick()
    time.sleep(LOOK)
    return True


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)
