"""What a worker does beside its work: it says how far that is, and ends it where somebody or nobody wants that."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from influence_core.errors import InfluenceError
from influence_core.jobs.row import Row, State
from influence_core.jobs.starting import limit
from influence_core.jobs.table import Table

PERIOD = 0.2
"""Seconds between two looks at the table."""

TOLD = 1.0
"""Seconds between two notes of how far the work is, at least."""

REACTION = 1.2
"""Seconds that the work has to end by itself. It looks at every step; a step may be long, and what it has not finished
is in no file."""


class Stopped(Exception):
    """Raised inside of work that is to end."""


class Watch(threading.Thread):
    """Watches over one attempt, on a thread of its own.

    Args:
        table: of the jobs.
        row: the job.
        leave: what is done before the process ends, where the work does not end by itself.
        say: writes a line to the log.
    """

    def __init__(self, table: Table, row: Row, leave: Callable[[], None], say: Callable[[str], None]) -> None:
        super().__init__(daemon=True, name=f"watch-{row.id[:8]}")
        self._table, self._row, self._leave, self._say = table, row, leave, say
        self._through = threading.Event()
        self._outcome: tuple[State, str | None] | None = None
        self._step, self._done, self._total = "", 0, 0
        self._stepped = time.monotonic()
        self._base = self._stepped, 0
        self._asks, self._asked = row.asks, time.monotonic()

    def listen(self, step: str, done: int, total: int) -> None:
        """The listener of the work.

        Args:
            step: what it does.
            done: steps done.
            total: of so many.

        Raises:
            Stopped: if it is to end.
        """
        now = time.monotonic()
        if step != self._step:
            self._stepped = now
            self._say(step)
        if now - self._stepped < TOLD:  # what is through in a moment was finished before, and says nothing of the rest
            self._base = now, done
        self._step, self._done, self._total = step, done, total
        if self._outcome is not None:
            raise Stopped

    def stop(self, state: State, error: str | None = None) -> None:
        """Let the work end at its next step.

        Args:
            state: of the job then.
            error: why, in a sentence.
        """
        self._outcome = self._outcome or (state, error)

    @property
    def outcome(self) -> tuple[State, str | None] | None:
        """What the job is once it has ended as it was told to."""
        return self._outcome

    def finish(self) -> None:
        """The work is through; nothing is noted any more when this returns."""
        self._through.set()
        self.join()

    def run(self) -> None:
        """What the thread does."""
        told, stopped = -TOLD, 0.0
        while not self._through.wait(PERIOD):
            now = time.monotonic()
            try:
                tells = now - told >= TOLD
                row = self._noted(now) if tells else self._table.row(self._row.id)
                self._heed(row, now)
                if tells:
                    told = now
                    if row is not None and not row.first and self._table.gives_way(row, limit()):
                        self.stop("queued")
            except InfluenceError:  # a full disk, or a table that was damaged: the work is none of that
                pass
            if self._outcome is not None:
                stopped = stopped or now
                if now - stopped > REACTION and not self._through.is_set():
                    self._say("the work did not end by itself in time: the process ends")
                    self._table.end(self._row, *self._outcome)
                    self._leave()
                    os._exit(0)

    def _noted(self, now: float) -> Row | None:
        step, done, total = self._step, self._done, self._total
        since, before = self._base
        left = (now - since) * (total - done) / (done - before) if before < done < total else None
        return self._table.note(self._row, step=step, done=done, total=total, seconds_left=left)

    def _heed(self, row: Row | None, now: float) -> None:
        """End the work where somebody wants that, or nobody wants the work."""
        if row is None or row.state != "running" or row.attempt != self._row.attempt:
            self.stop("lost")  # another attempt has begun, or the table was made anew
            return
        if row.asks != self._asks:
            self._asks, self._asked = row.asks, now
        if row.cancel:
            self.stop("cancelled")
        elif not row.keep and now - self._asked > row.patience:
            self.stop("cancelled", row.unwanted)
