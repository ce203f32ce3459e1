"""The table of jobs, ``jobs.db`` in the folder of a store: one SQLite file for any number of processes.

It holds no result: shards and results are files of their own, so that a table which is lost costs nothing but the list.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, cast

from influence_core.errors import InvalidInput
from influence_core.files import alone_in
from influence_core.jobs.processes import alive
from influence_core.jobs.row import Row, State

BUSY = 10.0
"""Seconds to wait for another process that writes."""

LOST = "its process ended before the work was through: resume goes on, and skips what is finished"

_VERSION = 1
_NAMES = [one.name for one in fields(Row)]
_TRUTHS = ("keep", "first", "handed", "cancel")
_KEYS = {"id": "TEXT PRIMARY KEY", "number": "INTEGER NOT NULL"}
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Table:
    """The jobs of one store.

    Args:
        folder: of the store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "jobs.db"
        self.logs = folder / "logs"

    def log(self, id: str) -> Path:
        """The file that a worker writes to."""
        return self.logs / f"{id}.log"

    def rows(self) -> list[Row]:
        """All jobs, the oldest first; those whose process is dead are found to be lost."""
        if not self.path.is_file():
            return []
        with self._reading() as reader:
            found = _rows(reader, "ORDER BY number")
        return found if not any(_dead(row) for row in found) else self._buried()

    def row(self, id: str) -> Row | None:
        """One job, likewise; ``None`` where there is none."""
        if not self.path.is_file():
            return None
        with self._reading() as reader:
            found = _row(reader, id)
        if found is None or not _dead(found):
            return found
        return next((row for row in self._buried() if row.id == id), None)

    def enter(self, new: Row) -> Row:
        """Queue a job, or find it queued or running.

        Args:
            new: what is asked for.

        Returns:
            The job as it is now. One that is being cancelled still is.
        """
        with self._writing() as writer:
            _bury(writer)
            known = _row(writer, new.id)
            if known is not None and known.under_way:
                wanted = replace(known, keep=known.keep or new.keep, first=known.first or new.first)
            else:
                again: dict[str, Any] = {name: getattr(new, name) for name in _NAMES[: _NAMES.index("state")]}
                again |= {"attempt": known.attempt, "asks": known.asks} if known is not None else {}
                wanted = Row(**again, number=_next(writer), created=time.time())
            wanted = replace(wanted, asks=wanted.asks + 1, asked=time.monotonic())
            _put(writer, wanted)
            return wanted

    def record(self, finished: Row) -> None:
        """Note a job whose result is there already; one that runs will say so itself."""
        with self._writing() as writer:
            known = _row(writer, finished.id)
            if known is None or known.state != "running":
                base = known or replace(finished, number=_next(writer), created=time.time())
                _put(writer, replace(base, state="done", error=None, kind=None, ended=time.time()))

    def claim(self, limit: int, process: str, worker: bool) -> Row | None:
        """Take the job whose turn it is, if there is room: one that a person looks at first, else the oldest.

        Args:
            limit: jobs that may run at once.
            process: that computes it, or will start the one that does.
            worker: whether it is the former.

        Returns:
            The job, running from now on; ``None`` where none waits, or there is no room.
        """
        with self._writing() as writer:
            _bury(writer)
            now = time.monotonic()
            for row in _rows(writer, "WHERE state = 'queued' AND NOT keep"):
                if now - row.asked > row.patience:
                    _put(writer, replace(row, state="cancelled", error=row.unwanted, ended=time.time()))
            running = _rows(writer, "WHERE state = 'running'")
            queued = _rows(writer, "WHERE state = 'queued' ORDER BY first DESC, number LIMIT 1")
            if len(running) >= limit or not queued:
                return None
            fresh: dict[str, Any] = {"heartbeat": None, "seconds_left": None, "step": "", "done": 0, "total": 0}
            fresh |= {"error": None, "kind": None, "begun": time.time(), "ended": None}
            attempt = queued[0].attempt + 1
            taken = replace(queued[0], state="running", process=process, handed=worker, attempt=attempt, **fresh)
            _put(writer, taken)
            return taken

    def hand(self, claimed: Row, process: str) -> Row | None:
        """Say which worker computes a claimed job; both who started it and the worker say so.

        Args:
            claimed: as it was claimed.
            process: the worker.

        Returns:
            The job; ``None`` where this attempt is over.
        """
        return self._during(claimed.id, claimed.attempt, process=process, handed=True)

    def note(self, row: Row, **facts: Any) -> Row | None:
        """Say how far a running job is.

        Args:
            row: the job, of which id and attempt count.
            **facts: step, done, total, seconds_left.

        Returns:
            The job as others see it, wishes to end it included; ``None`` where this attempt is over.
        """
        return self._during(row.id, row.attempt, heartbeat=time.time(), **facts)

    def gives_way(self, row: Row, limit: int) -> bool:
        """Whether a running job, which goes on later, makes room for one that a person looks at.

        Args:
            row: the job.
            limit: jobs that may run at once.

        Returns:
            Whether it is among the youngest of those that nobody looks at, as many as there is no room for.
        """
        with self._reading() as reader:
            waiting = _rows(reader, "WHERE state = 'queued' AND first")
            running = _rows(reader, "WHERE state = 'running' ORDER BY number DESC")
        now = time.monotonic()
        wanted = sum(one.keep or now - one.asked <= one.patience for one in waiting)
        others = [one.id for one in running if not one.first]
        return row.id in others[: max(0, wanted - max(0, limit - len(running)))]

    def end(self, row: Row, state: State, error: str | None = None, kind: str | None = None) -> None:
        """Say how an attempt ended; one that is over already stays as it is.

        Args:
            row: the job, of which id and attempt count.
            state: what it is from now on; "queued" where it only made room for another.
            error: why, in a sentence.
            kind: class of the error.
        """
        ended = None if state == "queued" else time.time()
        facts: dict[str, Any] = {"state": state, "error": error, "kind": kind, "ended": ended, "cancel": False}
        self._during(row.id, row.attempt, **facts, seconds_left=None)

    def ask(self, id: str) -> None:
        """Say that somebody still wants a job."""
        with self._writing() as writer:
            writer.execute("UPDATE jobs SET asks = asks + 1, asked = ? WHERE id = ?", (time.monotonic(), id))

    def cancel(self, id: str) -> None:
        """End a job that waits, or tell the worker of one that runs."""
        with self._writing() as writer:
            _bury(writer)
            row = _row(writer, id)
            if row is not None and row.state in ("queued", "lost"):
                _put(writer, replace(row, state="cancelled", error=None, kind=None, ended=time.time()))
            elif row is not None and row.state == "running":
                _put(writer, replace(row, cancel=True))

    def remove(self, ids: Sequence[str]) -> None:
        """Forget jobs that have ended, and what they wrote to their logs."""
        with self._writing() as writer:
            for id in ids:
                row = _row(writer, id)
                if row is not None and not row.under_way:
                    writer.execute("DELETE FROM jobs WHERE id = ?", (id,))
                    self.log(id).unlink(missing_ok=True)

    def _buried(self) -> list[Row]:
        with self._writing() as writer:
            _bury(writer)
            return _rows(writer, "ORDER BY number")

    def _during(self, id: str, attempt: int, **facts: Any) -> Row | None:
        with self._writing() as writer:
            row = _row(writer, id)
            if row is None or row.state != "running" or row.attempt != attempt:
                return None
            row = replace(row, **facts)
            _put(writer, row)
            return row

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._said(), closing(self._connected()) as reader:
            yield reader

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is kept or nothing."""
        with self._said(), closing(self._connected()) as writer:
            writer.execute("BEGIN IMMEDIATE")
            try:
                yield writer
            except BaseException:
                writer.execute("ROLLBACK")
                raise
            writer.execute("COMMIT")

    def _connected(self) -> sqlite3.Connection:
        if not self.path.is_file():
            self.logs.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None)
        try:
            if _version(connection) != _VERSION:
                with alone_in(self.logs):  # SQLite does not wait for others while it changes the mode
                    self._make(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
            return connection
        except BaseException:
            connection.close()
            raise

    def _make(self, connection: sqlite3.Connection) -> None:
        version = _version(connection)
        if version not in (0, _VERSION):
            raise InvalidInput(
                f"{self.path} was written by another version of this package (table {version}, this one has "
                f"{_VERSION}): {self._way_out()}"
            )
        if version == 0:
            connection.execute("PRAGMA journal_mode = WAL")
            columns = ", ".join(f"{name} {_KEYS.get(name, '')}" for name in _NAMES)
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"CREATE TABLE IF NOT EXISTS jobs ({columns})")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute("COMMIT")

    def _way_out(self) -> str:
        return (
            "remove it with the files jobs.db-wal and jobs.db-shm beside it; it is made anew, and results and finished "
            "shards are in none of them"
        )

    @contextmanager
    def _said(self) -> Iterator[None]:
        """What SQLite says, as a sentence."""
        try:
            yield
        except sqlite3.Error as error:
            code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
            if code in _DAMAGED or "no such" in str(error):
                raise InvalidInput(f"{self.path} is damaged ({error}): {self._way_out()}") from error
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                said = f"another process has held it for {BUSY:.0f} s: try again"
            else:
                said = "make room, or name another folder in the environment variable INFLUENCE_STORE"
            raise InvalidInput(f"{self.path} cannot be used ({error}): {said}") from error
        except OSError as error:
            raise InvalidInput(
                f"{error.filename or self.path} cannot be used ({error.strerror or error}): make room, or name another "
                "folder in the environment variable INFLUENCE_STORE"
            ) from error


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _rows(reader: sqlite3.Connection, which: str, values: Sequence[object] = ()) -> list[Row]:
    found = []
    for line in reader.execute(f"SELECT {', '.join(_NAMES)} FROM jobs {which}", values):
        facts: dict[str, Any] = dict(zip(_NAMES, line, strict=True))
        found.append(Row(**(facts | {name: bool(facts[name]) for name in _TRUTHS})))
    return found


def _row(reader: sqlite3.Connection, id: str) -> Row | None:
    return next(iter(_rows(reader, "WHERE id = ?", (id,))), None)


def _next(reader: sqlite3.Connection) -> int:
    return int(reader.execute("SELECT COALESCE(MAX(number), 0) + 1 FROM jobs").fetchone()[0])


def _put(writer: sqlite3.Connection, row: Row) -> None:
    marks = ", ".join("?" * len(_NAMES))
    writer.execute(f"INSERT OR REPLACE INTO jobs ({', '.join(_NAMES)}) VALUES ({marks})", tuple(asdict(row).values()))


def _dead(row: Row) -> bool:
    return row.state == "running" and not alive(cast(str, row.process))


def _bury(writer: sqlite3.Connection) -> None:
    for row in _rows(writer, "WHERE state = 'running'"):
        if _dead(row):
            facts: dict[str, Any] = {"cancel": False, "seconds_left": None, "ended": time.time()}
            state: State = "cancelled" if row.cancel else "lost"
            _put(writer, replace(row, state=state, error=None if row.cancel else LOST, **facts))
