"""Workers: how many at once, and how one is started so that it outlives whoever asked."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from influence_core.errors import InvalidInput
from influence_core.jobs.processes import named, this
from influence_core.jobs.row import Row
from influence_core.jobs.table import LOST, Table

WORKERS = "INFLUENCE_WORKERS"
"""Environment variable: jobs that may run at once."""

CORES = 4
"""Of a worker, where there are more."""

_children: list[subprocess.Popen[bytes]] = []
"""Workers that this process has started, which go on after it."""


def limit(workers: int | None = None) -> int:
    """How many jobs may run at once.

    Args:
        workers: as given; by default the environment's ``INFLUENCE_WORKERS``, or one for every four cores.

    Returns:
        At least 1.

    Raises:
        InvalidInput: if it is no number from 1 on.
    """
    given = os.environ.get(WORKERS) if workers is None else str(workers)
    if not given:
        return max(1, (os.cpu_count() or 1) // CORES)
    try:
        found = int(given)
    except ValueError:
        found = 0
    if found < 1:
        what = f"{WORKERS}={given}" if workers is None else f"workers={workers}"
        raise InvalidInput(f"{what}: expected the number of jobs that may run at once, 1 or more")
    return found


def dispatch(table: Table, workers: int | None = None) -> None:
    """Start a worker for every job that waits, as far as there is room.

    Args:
        table: of the jobs.
        workers: that may run at once, as for ``limit``.
    """
    most = limit(workers)
    _children[:] = [child for child in _children if child.poll() is None]
    while (row := table.claim(most, this(), worker=False)) is not None:
        _start(table, row, most)


def _start(table: Table, row: Row, most: int) -> None:
    """Start the worker of a job that was claimed for it, in a session of its own.

    It finds modules where this process does: an estimator that was imported here is imported from the same place.
    """
    environment = {**os.environ, WORKERS: str(most), "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = [sys.executable, "-P", "-m", "influence_core.jobs.worker", str(table.folder.resolve()), row.id]
    try:
        log = opened_log(table.log(row.id))
        try:
            child = subprocess.Popen(
                [*words, str(row.attempt)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )
        finally:
            os.close(log)
    except OSError as error:
        said = f"no process could be started for it ({error.strerror or error}): end other programs, and resume"
        table.end(row, "failed", said, "InfluenceError")
        return
    _children.append(child)
    process = named(child.pid)
    if process is None:  # it has ended already, and its log says why
        table.end(row, "lost", LOST)
    else:
        table.hand(row, process)


def opened_log(path: Path) -> int:
    """Open a log to write at its end; where none can be written, the work goes on without.

    Args:
        path: of the log.

    Returns:
        A file descriptor.
    """
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    return os.open(os.devnull, os.O_WRONLY)
