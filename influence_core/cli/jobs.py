"""``jobs``, and ``score --job``: work of other processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from influence_core.cli import texts
from influence_core.cli.console import as_json, command, result
from influence_core.cli.options import Json, Out, Trust
from influence_core.errors import InvalidInput, NotSupported
from influence_core.progress import tally
from influence_core.scores import Scores
from influence_core.study import Study

if TYPE_CHECKING:
    from influence_core.jobs import Job
    from influence_core.store import Store

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=texts.JOBS)

Id = Annotated[str, typer.Argument(metavar="ID", help="Of the job, or its first digits; last for the one queued last.")]
StorePath = Annotated[
    Path | None, typer.Option("--store", help="Folder of results; by default INFLUENCE_STORE, or the user's cache.")
]
Answer = tuple[dict[str, Any], str]


@app.command("ls", help=texts.JOBS_LS)
@command
def ls(store: StorePath = None, json: Json = False) -> None:
    """List jobs, the oldest first."""
    from influence_core.jobs import jobs

    found = jobs(_store(store))
    if json:
        as_json([job.facts() for job in found])
    else:
        result("\n".join(map(_line, found)) or "no jobs: influence score STUDY ESTIMATOR --job starts one")


@app.command("log", help=texts.JOBS_LOG)
@command
def log(
    id: Id,
    lines: Annotated[int, typer.Option(help="The last so many.")] = 40,
    store: StorePath = None,
    json: Json = False,
) -> None:
    """Print what a job's worker has said."""
    job = _got(id, store)
    as_json(job.facts() | {"lines": job.log(lines).splitlines()}) if json else result(job.log(lines))


@app.command("cancel", help=texts.JOBS_CANCEL)
@command
def cancel(id: Id, store: StorePath = None, json: Json = False) -> None:
    """End a job within two seconds."""
    _shown(_got(id, store).cancel(), json)


@app.command("resume", help=texts.JOBS_RESUME)
@command
def resume(id: Id, store: StorePath = None, trust: Trust = False, json: Json = False) -> None:
    """Go on with a job that was cancelled, lost or failed."""
    _shown(_got(id, store, trust).resume(), json)


@app.command("wait", help=texts.JOBS_WAIT)
@command
def wait(
    id: Id,
    out: Out = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait at most.")] = None,
    store: StorePath = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Wait for a job, and print or write its scores."""
    from influence_core.cli.scoring import check_out

    check_out(out)
    facts, text = _waited(_got(id, store, trust), out, timeout)
    as_json(facts) if json else result(text)


@app.command("clean", help=texts.JOBS_CLEAN)
@command
def clean(store: StorePath = None, json: Json = False) -> None:
    """Forget all jobs that have ended, and their logs."""
    from influence_core import jobs

    count = jobs.clean(_store(store))
    as_json({"removed": count}) if json else result(f"{count:,} jobs removed; their results stay")


def submitted(
    study: Study, name: str, what: str, test: str, settings: dict[str, Any], out: Path | None, wait: bool
) -> Answer:
    """A question that another process answers.

    Args:
        study: of which.
        name: of the estimator.
        what: public method.
        test: ids of test images, or "wrong".
        settings: of the estimator.
        out: file, or ``None``.
        wait: whether the answer is waited for.

    Returns:
        Facts, and what to print: the scores, or how to look at the job.

    Raises:
        InvalidInput: if a word makes no sense.
    """
    from influence_core.cli.scoring import question
    from influence_core.jobs import submit

    if out is not None and not wait:
        raise InvalidInput("--out belongs to --wait here: influence jobs wait ID --out FILE writes the scores of a job")
    estimator, ids = question(study, name, what, test, settings, out)
    job = submit(study, estimator, what, ids)
    if wait:
        return _waited(job, out, None)
    return job.facts(), f"{_line(job)}\ninfluence jobs wait {job.id[:12]} prints the scores; influence jobs ls looks"


def _waited(job: Job, out: Path | None, timeout: float | None) -> Answer:
    from influence_core.cli.scoring import told

    scores = job.wait(timeout)
    if not isinstance(scores, Scores):
        raise NotSupported(f"{job.title} is no table of scores: ic.jobs.get({job.id[:12]!r}).wait() gives it in Python")
    facts, text = told(job.request.study, scores, out)
    return {"job": job.id, **facts}, text


def _got(id: str, store: Path | None, trust: bool = False) -> Job:
    from influence_core.jobs import get

    return get(id, _store(store), trust)


def _store(path: Path | None) -> Store | None:
    from influence_core.store import Store

    return None if path is None else Store(path)


def _shown(job: Job, json: bool) -> None:
    as_json(job.facts()) if json else result(_line(job))


def _line(job: Job) -> str:
    row = job.row
    share = f" {tally(row.step, row.done, row.total) or row.step}" if row.state == "running" and row.total else ""
    return f"{row.id[:12]}  {row.state + share:<18}  {row.title}" + (f": {row.error}" if row.error else "")
