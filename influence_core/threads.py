"""What the threads of a process share: locks whose waiting is counted, and settings that last while they are needed.

Nothing of a study or a model is shared between two calls of the package: each works on a private copy of the model
(``influence_core.models.private``). What is left belongs to the process: torch's random numbers, its choice of
attention kernels, warnings, the kernel's note of the most memory used.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

_account = threading.local()
_numbers = itertools.count()


def waited() -> float:
    """Seconds that this thread has waited for locks of the package since it began."""
    return float(getattr(_account, "seconds", 0.0))


class FairLock:
    """A lock that its holder may take again, and that goes to whoever has waited longest.

    Python's own lock may go back to the thread that has just given it away, again and again: a training that takes it
    for every step would starve all others. What a thread waits is added to its account, see ``waited``.
    """

    def __init__(self) -> None:
        self._mutex = threading.RLock()  # the garbage collector may end a holder's block while this is held
        self._owner: int | None = None
        self._depth = 0
        self._queue: deque[tuple[int, threading.Lock]] = deque()

    def __enter__(self) -> None:
        me = threading.get_ident()
        held = self._depth if self._owner == me else 0
        try:
            turn = self._take_or_queue(me)
            if turn is not None:
                begun = time.perf_counter()
                try:
                    turn.acquire()
                finally:
                    _account.seconds = waited() + time.perf_counter() - begun
        except BaseException:  # Ctrl-C: whatever was got so far is given away
            with uninterrupted(), self._mutex:
                self._queue = deque(one for one in self._queue if one[0] != me)
                while self._owner == me and self._depth > held:
                    self._release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with uninterrupted():
            self._release()

    def _take_or_queue(self, me: int) -> threading.Lock | None:
        with self._mutex:
            if self._owner in (None, me):
                self._owner, self._depth = me, self._depth + 1
                return None
            turn = threading.Lock()
            turn.acquire()
            self._queue.append((me, turn))
            return turn

    def _release(self) -> None:
        with self._mutex:
            self._depth -= 1
            if self._depth:
                return
            self._owner = None
            if self._queue:
                self._owner, turn = self._queue.popleft()
                self._depth = 1
                turn.release()


class WhileNeeded:
    """A setting of the process: the first thread inside makes it, the last one out takes it back.

    Threads that each save and restore such a setting leave it wrong when they overlap.

    Args:
        setting: makes a context that makes the setting, and takes it back.
    """

    def __init__(self, setting: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
        self._setting = setting
        self._lock = threading.RLock()  # a block may be ended by the garbage collector, while this is held
        self._inside: set[object] = set()
        self._exit = contextlib.ExitStack()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the setting inside the ``with`` block."""
        me = object()
        try:
            with self._lock:
                if not self._inside:
                    self._exit.enter_context(self._setting())
                self._inside.add(me)
            yield
        finally:
            with uninterrupted(), self._lock:
                last = self._inside == {me}
                self._inside.discard(me)
                if last:
                    self._exit.close()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the block is through; other threads than the main one never see it.

    Yields:
        Nothing.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield
        return
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if asked:
            signal.raise_signal(asked[0])


@contextlib.contextmanager
def _ignoring(category: type[Warning], message: str, module: str) -> Iterator[None]:
    warnings.filterwarnings("ignore", message, category, module)
    filters, entry = warnings.filters, warnings.filters[0]
    try:
        yield
    finally:
        for place in (filters, warnings.filters):  # somebody else's catch_warnings may have put a copy in its place
            with contextlib.suppress(ValueError):
                place.remove(entry)  # type: ignore[attr-defined]


def ignored_while_needed(category: type[Warning] = Warning, message: str = "", module: str = "") -> WhileNeeded:
    """A filter of warnings for several threads at once; ``warnings.catch_warnings`` would leave it behind for ever.

    Args:
        category: of the warnings.
        message: how they begin, a regular expression.
        module: which module warns, likewise.

    Returns:
        The setting: ``with it(): ...``.
    """
    own = (
        f"{message}(?#{next(_numbers)})"  # a comment; an entry equal to the user's own would be moved, and then removed
    )
    return WhileNeeded(lambda: _ignoring(category, own, module))
