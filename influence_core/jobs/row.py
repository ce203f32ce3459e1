"""A job as ``jobs.db`` has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["queued", "running", "done", "failed", "cancelled", "lost"]
"""``lost``: its process ended before the work was through. All but the first two have ended; ``resume`` goes on."""


@dataclass(frozen=True)
class Row:
    """What is known of a job; times of the day are for people, and decide nothing.

    Attributes:
        id: key of its request.
        title: for a person.
        study: path of the ``study.toml``.
        plugin: Python file that the study needs, which the process that asked has run; or ``None``.
        plugin_sha256: of it as it ran.
        module: of the estimator.
        spec: the request as JSON.
        threads: to compute with, at every attempt: what is finished belongs to one number of them.
        budget: bytes that the store takes at most; ``None`` for any size.
        keep: whether it stays although nobody asks.
        patience: seconds after which one that nobody asks for ends.
        first: whether a person is looking, so that it comes before others.
        state: see ``State``.
        process: that computes it, or is about to start the one that will.
        handed: whether that one is the worker.
        attempt: how often it was begun.
        cancel: whether somebody wants it to end.
        asks: how often somebody asked.
        asked: when last, on the machine's clock that nobody sets.
        step: what it does, in words.
        done: steps of that.
        total: of so many; 0 where that is not known.
        seconds_left: as far as it is known.
        heartbeat: when the worker last said anything, a time of the day.
        error: why it ended, in a sentence.
        kind: class of the error.
        created: time of the day, as the next two.
        begun: the last attempt.
        ended: likewise.
        number: grows with every job that is queued.
    """

    id: str
    title: str
    study: str
    plugin: str | None
    plugin_sha256: str | None
    module: str
    spec: str
    threads: int
    budget: float | None = None
    keep: bool = True
    patience: float = 60.0
    first: bool = False
    state: State = "queued"
    process: str | None = None
    handed: bool = False
    attempt: int = 0
    cancel: bool = False
    asks: int = 0
    asked: float = 0.0
    step: str = ""
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    heartbeat: float | None = None
    error: str | None = None
    kind: str | None = None
    created: float = 0.0
    begun: float | None = None
    ended: float | None = None
    number: int = 0

    @property
    def under_way(self) -> bool:
        """Whether its end is still to come."""
        return self.state in ("queued", "running")

    @property
    def unwanted(self) -> str:
        """Why it ends where nobody asks for it, as a sentence."""
        return f"nobody asked for it for {self.patience:.0f} s, and it was not to be kept: resume goes on"
