"""``python -m influence_core.jobs.worker STORE ID ATTEMPT``: the process that computes jobs, one after the other."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from influence_core.errors import InfluenceError
from influence_core.jobs.processes import this
from influence_core.jobs.requests import request_of
from influence_core.jobs.row import Row, State
from influence_core.jobs.starting import dispatch, limit, opened_log
from influence_core.jobs.table import Table
from influence_core.jobs.watching import Watch
from influence_core.progress import listen
from influence_core.store import Store


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute a job that was claimed for this process, and then those that wait.

    Args:
        arguments: path of the store, id of the job, and which attempt at it this is.

    Returns:
        The exit code.
    """
    folder, id, attempt = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    table = Table(Path(folder))
    row = table.row(id)
    if row is not None and row.attempt == int(attempt):
        row = table.hand(row, this())
    while row is not None:
        _write_to(table.log(row.id))
        if not computed(table, row):
            return 0
        row = table.claim(limit(), this(), worker=True)
    return 0


def computed(table: Table, row: Row) -> bool:
    """Compute one job, and say in the table how that ended.

    Args:
        table: of the jobs.
        row: the job, handed to this process.

    Returns:
        Whether this process may go on with others.
    """
    ended: list[bool] = []
    watch = Watch(table, row, leave=lambda: dispatch(table), say=_say)

    def asked_to_end(*_: object) -> None:
        ended.append(True)
        watch.stop("lost", "its process was told to end (SIGTERM): resume goes on, and skips what is finished")

    former = signal.signal(signal.SIGTERM, asked_to_end)
    _say(f"{row.title} ({row.id}), attempt {row.attempt}")
    watch.start()
    state: State
    error: str | None
    kind: str | None = None
    try:
        with listen(watch.listen):
            _compute(table.folder, row)
        state, error = "done", None
    except Exception as problem:
        if watch.outcome is not None:  # whatever code of others made of it
            state, error = watch.outcome
        else:
            state, error, kind = "failed", _sentence(problem), type(problem).__name__
            _say("".join(traceback.format_exception(problem)).rstrip())
    finally:
        watch.finish()
        signal.signal(signal.SIGTERM, former)
    table.end(row, state, error, kind)
    _say(
        "queued: one that a person looks at comes first"
        if state == "queued"
        else f"{state}{f': {error}' if error else ''}"
    )
    return not ended


def _compute(folder: Path, row: Row) -> None:
    torch.set_num_threads(row.threads)
    Store(folder, budget=row.budget).compute(request_of(row, trust=True))


def _write_to(path: Path) -> None:
    """Let all that this process says go to a job's own log, whatever says it."""
    log = opened_log(path)
    try:
        for number in (1, 2):
            os.dup2(log, number)
    finally:
        os.close(log)


def _sentence(problem: Exception) -> str:
    first = (str(problem).splitlines() or [""])[0]
    if isinstance(problem, InfluenceError):
        return str(problem)
    if isinstance(problem, MemoryError) or (isinstance(problem, RuntimeError) and "memory" in first.lower()):
        return (
            f"there is not enough memory for it ({first or 'MemoryError'}): influence doctor STUDY says what needs it"
        )
    if isinstance(problem, OSError):
        return f"{problem.filename or 'a file'} cannot be used: {problem.strerror or first}"
    return f"this should not have happened: {type(problem).__name__}: {first} (the log shows where)"


def _say(words: str) -> None:
    """A line in the log, as far as the disk has room for it."""
    with suppress(OSError, ValueError):
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {words}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
