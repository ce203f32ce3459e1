"""Sweeps of several estimators over the same data with the same model, made as one.

Work that runs in threads joins a ``Meeting``. A sweep then waits until all the others that joined come to one too, or
have ended; those that pass over the same samples with the same model and loss become one pass with the consumers of
all. Where they differ, those over few samples or with labels drawn anew go first: whoever makes them will come to the
gradients of the training set next, where the others still wait. Nothing else changes: a consumer sees what it would
have seen alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from influence_core.gradients.block import Block, Consumer, SweepContext
from influence_core.progress import listen, tick, track

PATIENCE = 10.0
"""Seconds that a sweep waits for others that make no sweep before it goes alone."""

GRACE = 0.5
"""Seconds that it waits for work that is expected but has not joined yet."""

_LOOK = 0.05  # seconds between two looks at whether somebody wants the work stopped

_joined: ContextVar[Meeting | None] = ContextVar("influence_core_meeting", default=None)


@dataclass(eq=False)
class Request:
    """A sweep that is wanted.

    Attributes:
        key: equal for sweeps that can be one.
        rank: what others may want as well comes later.
        consumers: of it.
        run: makes the sweep with some consumers, and gives its report.
    """

    key: Any
    rank: tuple[bool, int]
    consumers: Sequence[Consumer]
    run: Callable[[Sequence[Consumer]], Any]
    group: _Group | None = None


class Meeting:
    """Where pieces of work wait for each other's sweeps.

    Args:
        expected: how many pieces of work will join, in a moment; those that joined are always waited for.
    """

    def __init__(self, expected: int = 0) -> None:
        self._changed = threading.Condition()
        self._expected, self._begun = expected, time.monotonic()
        self._came = self._present = self._running = 0
        self._moved = self._begun
        self._waiting: list[Request] = []

    @contextmanager
    def joined(self) -> Iterator[None]:
        """What this thread does in the ``with`` block takes part.

        Yields:
            Nothing.
        """
        with self._changed:
            self._came += 1
            self._present += 1
        token = _joined.set(self)
        try:
            yield
        finally:
            _joined.reset(token)
            with self._changed:
                self._present -= 1
                self._changed.notify_all()

    def sweep(self, request: Request) -> Any:
        """Make a sweep, together with those of others where that can be.

        Args:
            request: what is wanted.

        Returns:
            The report.
        """
        begun = time.monotonic()
        with self._changed:
            self._waiting.append(request)
            self._changed.notify_all()
            try:
                while request.group is None:
                    idle = 0.0 if self._running else time.monotonic() - max(begun, self._moved)
                    if self._all_here() or idle > PATIENCE:
                        self._part(request)
                    else:
                        self._changed.wait(_LOOK)
                    tick()  # which raises where the work is to be stopped
            except BaseException:
                if request in self._waiting:
                    self._waiting.remove(request)
                raise
            self._running += 1
        try:
            return request.run(request.consumers) if request.group.alone else request.group.wait_for(request)
        finally:
            with self._changed:
                self._running -= 1
                self._moved = time.monotonic()
                self._changed.notify_all()

    def _all_here(self) -> bool:
        late = self._came < self._expected and time.monotonic() - self._begun < GRACE
        return not late and len(self._waiting) >= self._present

    def _part(self, mine: Request) -> None:
        """Those of the lowest rank go on, in groups of equal keys; or, once patience ends, the own group alone."""
        lowest = min(r.rank for r in self._waiting)
        here = self._all_here()
        chosen = [r for r in self._waiting if (r.rank == lowest if here else r.key == mine.key)]
        groups: dict[Any, _Group] = {}
        for request in chosen:
            groups.setdefault(request.key, _Group()).requests.append(request)
        self._waiting = [r for r in self._waiting if r not in chosen]
        for group in groups.values():
            for request in group.requests:
                request.group = group
            group.begin()
        self._changed.notify_all()


@dataclass(eq=False)
class _Group:
    """Requests that are one sweep."""

    requests: list[Request] = field(default_factory=list)
    guarded: dict[int, list[_Guarded]] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)
    left: int = 0
    done: tuple[int, int] = (0, 0)
    report: Any = None
    error: BaseException | None = None

    @property
    def alone(self) -> bool:
        return len(self.requests) == 1

    def begin(self) -> None:
        """Start the sweep, in a thread of its own so that nobody's being stopped stops the others."""
        if not self.alone:
            self.guarded = {id(r): [_Guarded(c) for c in r.consumers] for r in self.requests}
            threading.Thread(target=self._sweep, name="shared sweep", daemon=True).start()

    def _sweep(self) -> None:
        def told(what: str, done: int, total: int) -> None:
            self.done = (done, total)
            if self.left == len(self.requests):
                raise _NobodyWaits

        try:
            with listen(told):
                self.report = self.requests[0].run([c for some in self.guarded.values() for c in some])
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()

    def wait_for(self, request: Request) -> Any:
        """Until the sweep is made; shows how far it is."""
        try:
            while not self.ended.wait(_LOOK) and not self.done[1]:
                tick()
            for _ in track(self._steps(), "per-sample gradients of several estimators", self.done[1]):
                pass
        except BaseException:
            self.left += 1
            raise
        errors = [one.error for one in self.guarded[id(request)] if one.error is not None]
        if errors or self.error is not None:
            raise errors[0] if errors else self.error  # type: ignore[misc]
        return self.report

    def _steps(self) -> Iterator[None]:
        told = 0
        while not self.ended.wait(_LOOK):
            tick()
            while told < self.done[0]:
                told += 1
                yield
        for _ in range(told, self.done[1]):
            yield


class _NobodyWaits(Exception):
    """All who wanted the sweep were stopped."""


class _Guarded:
    """A consumer whose error is its own and not that of the sweep."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self.error: BaseException | None = None

    def start(self, context: SweepContext) -> None:
        self._try(lambda: self._consumer.start(context))

    def consume(self, block: Block) -> None:
        self._try(lambda: self._consumer.consume(block))

    def finish(self) -> None:
        self._try(self._consumer.finish)

    def _try(self, call: Callable[[], None]) -> None:
        if self.error is None:
            try:
                call()
            except Exception as error:
                self.error = error


def meeting() -> Meeting | None:
    """The meeting that this thread takes part in; under autocast none, since another thread would sweep without."""
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return None
    return _joined.get()


def key_of(labels: Tensor | None) -> Any:
    """What makes given labels equal."""
    return None if labels is None else (tuple(labels.shape), str(labels.dtype), labels.detach().cpu().numpy().tobytes())
