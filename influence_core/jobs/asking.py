"""How work gets a process of its own, and how it is found again."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators import Estimator
from influence_core.jobs.job import CANCEL, Job
from influence_core.jobs.processes import this
from influence_core.jobs.row import Row
from influence_core.jobs.starting import CORES, dispatch, limit
from influence_core.jobs.table import Table
from influence_core.models import run_plugin
from influence_core.store import Request, Store, Task
from influence_core.study import Study

LAST = "last"
"""In place of an id: the job that was asked for last."""


def submit(
    study: Study,
    estimator: str | type[Estimator] | Estimator,
    what: str,
    test: int | Sequence[int] | Tensor | None = None,
    *,
    store: Store | None = None,
    keep: bool = True,
    patience: float = 60.0,
    first: bool = False,
    threads: int | None = None,
    workers: int | None = None,
    **change: Any,
) -> Job:
    """Let another process compute a result, or find it finished, under way or waiting.

    The process outlives this one, a browser and a connection. The same request is the same job, whoever asks.

    Args:
        study: that is asked about; one that is in no file is saved into the user's cache.
        estimator: name, class or object, as for ``ic.store.Request.of``.
        what: public method.
        test: ids of test images, for "influence".
        store: where the result will be; by default the user's, beside what came with the study, as for ``ic.run``.
        keep: whether it goes on although nobody asks for it any more (``Job.ask``, ``Job.wait``).
        patience: seconds after which it otherwise ends.
        first: whether a person is looking: it comes before jobs of others, which come by age; where there is no room,
            the youngest of them stops, and goes on afterwards with what it has not finished.
        threads: to compute with; by default as many as torch has here, which makes the same numbers.
        workers: jobs that may run at once; by default ``INFLUENCE_WORKERS``, or one for every four cores.
        **change: ``remove``, ``relabel`` and ``weight``, for "parameter_change".

    Returns:
        The job.

    Raises:
        InvalidInput: if the request makes no sense, or the plugin of the study has not run here.
        NotSupported: if no other process can open the study or find the estimator.

    Example:
        >>> import influence_core as ic
        >>> job = ic.jobs.submit(ic.demo.digits(), "ekfac", "influence", test=[475])  # doctest: +SKIP
        >>> job.wait().top()  # doctest: +SKIP
    """
    return submit_task(
        Request.of(study, estimator, what, test=test, **change),
        store=store,
        keep=keep,
        patience=patience,
        first=first,
        threads=threads,
        workers=workers,
    )


def submit_task(
    task: Task,
    *,
    store: Store | None = None,
    keep: bool = True,
    patience: float = 60.0,
    first: bool = False,
    threads: int | None = None,
    workers: int | None = None,
) -> Job:
    """Let another process do a task, such as a ``Request``, ``Retrainings`` or ``Trainings``; see ``submit``.

    Args:
        task: to do.
        store: as of ``submit``, and so are the others.
        keep: likewise.
        patience: likewise.
        first: likewise.
        threads: likewise.
        workers: likewise.

    Returns:
        The job.

    Raises:
        InvalidInput: if the plugin of the study has not run here.
        NotSupported: if no other process can open the study or find the estimator.
    """
    job = Job(store, task.key, task)
    table = Table(job.store.path)
    new = replace(
        _row(task, _threads(threads, workers)), budget=job.store.budget, keep=keep, patience=patience, first=first
    )
    if job.finished():
        table.record(new)
        return job
    end = time.monotonic() + CANCEL + 1
    while table.enter(new).cancel and time.monotonic() < end:  # it ends just now, and begins again then
        time.sleep(0.05)
    dispatch(table, workers)
    return job


def jobs(store: Store | None = None) -> list[Job]:
    """All jobs of a store, the oldest first.

    Args:
        store: by default the user's.

    Returns:
        The jobs.
    """
    return [Job(store, row.id) for row in rows(store)]


def rows(store: Store | None = None) -> list[Row]:
    """What is known of all jobs of a store, at one look, the oldest first.

    Args:
        store: by default the user's.

    Returns:
        A row each; ``Job(store, row.id)`` is the job.
    """
    return Table((Store() if store is None else store).path).rows()


def get(id: str, store: Store | None = None, trust: bool = False) -> Job:
    """Find a job.

    Args:
        id: its id, or the first digits of it that no other has, or "last" for the one that was queued last.
        store: by default the user's.
        trust: whether the study's plugin, which is Python code, may run here to show the result.

    Returns:
        The job.

    Raises:
        InvalidInput: if there is none, or more than one.
    """
    known = rows(store)
    found = known[-1:] if id == LAST else [row for row in known if id and row.id.startswith(id)]
    if len(found) == 1:
        return Job(store, found[0].id, trust=trust)
    if found:
        some = ", ".join(row.id[: len(id) + 4] for row in found[:4])
        raise InvalidInput(f"{len(found)} jobs begin with {id!r} ({some}): give more digits")
    last = ", ".join(row.id[:12] for row in known[-4:]) or "none yet"
    where = (Store() if store is None else store).path
    raise InvalidInput(f"there is no job {id!r} in {where}; the last ones are: {last}")


def clean(store: Store | None = None, ids: Sequence[str] | None = None) -> int:
    """Forget jobs that have ended, and their logs; results and finished shards stay.

    Args:
        store: by default the user's.
        ids: whole ids; all by default.

    Returns:
        How many.
    """
    table = Table((Store() if store is None else store).path)
    ended = [row.id for row in table.rows() if not row.under_way and (ids is None or row.id in ids)]
    if ended:
        table.remove(ended)
    return len(ended)


def _row(request: Task, threads: int) -> Row:
    this()  # refused where nobody could say later whether a worker is alive
    module = request.module
    if module == "__main__":
        raise NotSupported(
            f"what {request.title!r} asks is defined in this notebook or script, where no other process finds "
            f"it: move it into a module, or {request.here}"
        )
    try:
        home, plugin = request.study.home()
    except NotSupported as error:
        raise NotSupported(f"{error}; or {request.here}") from error
    ran = None if plugin is None else run_plugin(plugin, trust=False)
    return Row(
        id=request.key,
        title=request.title,
        study=str(home.resolve()),
        plugin=None if plugin is None else str(plugin.resolve()),
        plugin_sha256=None if ran is None else ran.sha256,
        module=module,
        spec=json.dumps(request.spec()),
        threads=threads,
    )


def _threads(threads: int | None, workers: int | None) -> int:
    """As asked; else as many as work in this process has, or a share of the cores where there are several workers."""
    if threads is not None and threads < 1:
        raise InvalidInput(f"threads is {threads}; expected 1 or more, or nothing for as many as there are")
    if threads is None:
        return torch.get_num_threads() if limit(workers) == 1 else CORES
    return threads
