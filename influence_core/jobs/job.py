"""Job: a handle on work that another process does; it may be dropped and made again at any time."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from influence_core import errors
from influence_core.errors import InfluenceError, InvalidInput, StaleResult
from influence_core.estimators import ParameterChange
from influence_core.jobs.processes import kill
from influence_core.jobs.requests import request_of
from influence_core.jobs.row import Row, State
from influence_core.jobs.stability import Stability, stability
from influence_core.jobs.starting import dispatch
from influence_core.jobs.table import Table
from influence_core.progress import duration, tally, tick, track
from influence_core.scores import Scores
from influence_core.store import Store, Task, beside

LOOK = 0.2
"""Seconds between two looks of who waits."""

ASK = 1.0
"""Seconds between two notes that somebody waits."""

CANCEL = 1.75
"""Seconds after which a worker that does not react is killed: its finished shards are files."""

_TAIL = 1 << 16


class Job:
    """Work that goes on without whoever asked for it: ``ic.jobs.submit`` starts it, ``ic.jobs.get`` finds it.

    Everything is read anew at each look.

    Args:
        store: where the result will be; by default the user's, beside what came with the study.
        id: key of the request.
        request: what was asked; by default it is made again from the table once it is needed.
        trust: whether the study's plugin may run for that.
    """

    def __init__(self, store: Store | None, id: str, request: Task | None = None, trust: bool = False) -> None:
        self.store, self.id = Store() if store is None else store, id
        self._request, self._trust, self._beside = request, trust, store is None
        self._table = Table(self.store.path)

    @property
    def row(self) -> Row:
        """All that is known of it now.

        Raises:
            InvalidInput: if it was removed.
        """
        found = self._table.row(self.id)
        if found is None:
            raise InvalidInput(f"there is no job {self.id[:12]} any more: ask again, what is finished is found")
        return found

    @property
    def title(self) -> str:
        """What it is, for a person."""
        return self.row.title

    @property
    def state(self) -> State:
        """Queued, running, done, failed, cancelled or lost."""
        return self.row.state

    @property
    def done(self) -> int:
        """Steps done of what it does just now."""
        return self.row.done

    @property
    def total(self) -> int:
        """Of so many; 0 where that is not known."""
        return self.row.total

    @property
    def seconds_left(self) -> float | None:
        """Of what it does just now, as far as that is known."""
        return self.row.seconds_left

    @property
    def error(self) -> str | None:
        """Why it ended before it was through, in a sentence."""
        return self.row.error

    @property
    def request(self) -> Task:
        """What was asked."""
        if self._request is None:
            self._request = request_of(self.row, self._trust)
        return self._request

    def log(self, lines: int = 40) -> str:
        """What the worker has said.

        Args:
            lines: the last ones, at most.

        Returns:
            The text; empty where it has said nothing.
        """
        try:
            with self._table.log(self.id).open("rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - _TAIL))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:]) if lines > 0 else ""

    def ask(self) -> Row:
        """Say that somebody still wants it; one that waits begins, if there is room by now.

        Returns:
            All that is known of it now.
        """
        self._table.ask(self.id)
        row = self.row
        if row.state == "queued":
            dispatch(self._table)
            row = self.row
        return row

    def cancel(self) -> Job:
        """End it within two seconds; what is finished stays, and ``resume`` goes on from there.

        Returns:
            This job.
        """
        self._table.cancel(self.id)
        end = time.monotonic() + CANCEL
        while (row := self.row).state == "running" and row.cancel and time.monotonic() < end:
            time.sleep(LOOK / 4)
        if row.state == "running" and row.cancel:
            if row.handed and row.process is not None:
                kill(row.process)
            self._table.end(row, "cancelled")
            dispatch(self._table)
        return self

    def resume(self, workers: int | None = None) -> Job:
        """Go on with a job that ended before it was through; finished shards are skipped.

        Args:
            workers: jobs that may run at once, as for ``submit``.

        Returns:
            This job; one that is queued, running or done stays as it is.
        """
        row = self.row
        if row.state != "done" or not self.finished():
            self._table.enter(row)
            dispatch(self._table, workers)
        return self

    def wait(self, timeout: float | None = None) -> Scores | ParameterChange:
        """Wait until it is through, with a bar; Ctrl-C ends the waiting, and the job goes on.

        Args:
            timeout: seconds to wait at most.

        Returns:
            The result, as the estimator's own method gives it; of trainings, a list of them.

        Raises:
            InfluenceError: the job's own error, by its class; or that it was cancelled, or lost.
            TimeoutError: if it is not through in time; it goes on.
            KeyboardInterrupt: with a sentence that says how to come back.
        """
        end = None if timeout is None else time.monotonic() + timeout
        try:
            while (row := self.ask()).under_way:
                for _ in track(self._steps(row, end), row.step or row.title, row.total or None):
                    pass
                if end is not None and time.monotonic() > end:
                    raise TimeoutError(f"{row.title} is not through after {duration(timeout or 0.0)}: it goes on")
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"the job goes on: ic.jobs.get({self.id[:12]!r}).wait() comes back to it, and .cancel() ends it"
            ) from None
        found = self._found() if row.state in ("done", "lost") else None
        if found is None:
            self._raise(row)
        if row.state == "lost":  # the process ended after the result was there, before it said so
            self._table.record(row)
        return found

    def partial(self) -> Scores | None:
        """The scores of the rows that are there so far, or ``None`` where there are none."""
        return self._answers.partial(self.request)

    def stability(self, k: int = 10) -> Stability | None:
        """Since which share of the rows the k largest and smallest scores are those of the same images.

        Args:
            k: images on each side.

        Returns:
            It, as text "top 10 unchanged since 22 %"; ``None`` where fewer rows than ``k`` are there.
        """
        scores = self.partial()
        return None if scores is None or len(scores.values) < k else stability(scores, k, len(self.request.study.train))

    def finished(self) -> bool:
        """Whether the result is there and whole; a damaged one is computed again, and the worker's log says so."""
        try:
            return self._found() is not None
        except (InvalidInput, StaleResult):
            return False

    def facts(self) -> dict[str, Any]:
        """Plain values for programs."""
        row = self.row
        shown = ("id", "title", "state", "step", "done", "total", "seconds_left", "error", "attempt", "study")
        times = ("created", "begun", "ended", "heartbeat")
        return {name: getattr(row, name) for name in (*shown, *times)} | {"log": str(self._table.log(self.id))}

    def __repr__(self) -> str:
        """Id, title and how far it is."""
        row = self.row
        return f"Job({row.id[:12]}: {row.title}; {_says(row)})"

    def _repr_html_(self) -> str:
        """What a notebook shows: how far it is, and how to come back to it."""
        row = self.row
        share = 100 if row.state == "done" else 100 * row.done // row.total if row.total else 0
        parts = [
            f"<p><b>{html.escape(row.title)}</b> · {html.escape(_says(row))}</p>",
            f'<progress max="100" value="{share}" style="width:320px"></progress>',
            f'<p style="opacity:.7"><code>ic.jobs.get("{html.escape(row.id[:12])}")</code></p>',
        ]
        return f'<div style="font-family:sans-serif;font-size:13px">{"".join(parts)}</div>'

    @property
    def _answers(self) -> Store:
        return Store(also=beside(self.request.study)) if self._beside else self.store

    def _found(self) -> Scores | ParameterChange | None:
        return self._answers.find(self.request)

    def _steps(self, begun: Row, end: float | None) -> Iterator[int]:
        """A number for each step that is done, as long as the job does what it did at the first look."""
        told, asked = 0, time.monotonic()
        while True:
            now = time.monotonic()
            row, asked = (self.ask(), now) if now - asked > ASK else (self.row, asked)
            if not row.under_way or (row.step, row.total) != (begun.step, begun.total) or row.done < told:
                return
            while told < row.done:
                yield told
                told += 1
            if end is not None and time.monotonic() > end:
                return
            tick()
            time.sleep(LOOK)

    def _raise(self, row: Row) -> NoReturn:
        named = f"{row.title}: " if row.state != "failed" else ""
        why = row.error or {
            "cancelled": "it was cancelled: job.resume() goes on, and skips what is finished",
            "done": f"its result is in {self.store.path} no more: job.resume() computes it again",
        }.get(row.state, row.state)
        kind = getattr(errors, row.kind or "", InfluenceError)
        known = isinstance(kind, type) and issubclass(kind, InfluenceError)
        raise (kind if known else InfluenceError)(f"{named}{why}")


def _says(row: Row) -> str:
    """How far it is, in words."""
    words: str = row.state
    if row.state == "running":
        words += f", {row.step}" if row.step else ", it begins"
        counted = tally(row.step, row.done, row.total)
        words += f", {counted}" if counted else ""
        words += f", about {duration(row.seconds_left)} left" if row.seconds_left else ""
    return words + (f": {row.error}" if row.error else "")
