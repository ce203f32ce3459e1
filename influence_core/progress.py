"""One way to report progress: long loops say what they do, a listener shows it.

Without a listener a ``tqdm`` bar appears for work of more than a second. The app and the job runner listen instead. A
loop inside a loop counts towards the outer one: ten checkpoints of a hundred batches are a thousand steps, told under
the outer loop's words. A listener may raise, to stop the work; whatever was under way is cleaned up.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

Listener = Callable[[str, int, int], None]
"""Called as ``listener(what, done, total)``; ``total`` is 0 when unknown, and grows where more work is found."""

_listener: ContextVar[Listener | None] = ContextVar("influence_core_progress", default=None)
_innermost: ContextVar[_Loop | None] = ContextVar("influence_core_loop", default=None)


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Send the progress of all work inside the ``with`` block to ``listener``.

    It holds for this thread (the ``contextvars`` context) alone.

    Args:
        listener: called with the name of the work, the steps done and the steps in all. What it raises ends the work.

    Yields:
        Nothing; the former listener is back afterwards.
    """
    token, loop = _listener.set(listener), _innermost.set(None)
    try:
        yield
    finally:
        _listener.reset(token)
        _innermost.reset(loop)


def track(items: Iterable[T], what: str | Callable[[int], str], total: int | None = None) -> Iterator[T]:
    """Iterate over ``items`` and report each finished one.

    Args:
        items: what to iterate over.
        what: a few words a person understands, such as "TracIn checkpoints"; or what gives them by the number of items
            that are finished, such as "3 of 8 trainings", where the loops inside count in steps of their own.
        total: number of items, where ``len`` does not tell.

    Yields:
        The items, unchanged.
    """
    if total is None:
        total = len(items) if isinstance(items, Sized) else 0
    outer = _innermost.get()
    words = what if callable(what) else lambda _: what
    loop = _Loop(total, outer, words, _shown(words(0), total) if outer is None else None)
    _innermost.set(loop)
    try:
        loop.tell()
        for item in items:
            yield item
            loop.advance()
    finally:
        if _innermost.get() is loop:  # not where the garbage collector ends a loop that was left
            _innermost.set(outer)
        loop.close()


@contextmanager
def contained() -> Iterator[None]:
    """Loops that an exception breaks off inside the ``with`` block end with it.

    Python ends the generator behind a loop only when the exception is forgotten; until then whatever comes next would
    count as a part of it.

    Yields:
        Nothing.
    """
    before = _innermost.get()
    try:
        yield
    finally:
        loop = _innermost.get()
        while loop is not None and loop is not before:
            loop.close()
            loop = loop.outer
        _innermost.set(before)


def tick() -> None:
    """Say that the work goes on, where nobody knows how far it is; a listener may stop it."""
    loop = _innermost.get()
    if loop is not None:
        loop.tell()


def duration(seconds: float) -> str:
    """A time as a person says it: "0.4 s", "12 s", "3 min", "1.5 h"."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class _Loop:
    """How far a loop is, in steps of the loops inside it where there are any."""

    def __init__(
        self,
        total: int,
        outer: _Loop | None,
        words: Callable[[int], str],
        shown: tuple[Listener, Callable[[], None]] | None,
    ) -> None:
        self._total, self.outer, self._words, self._shown = total, outer, words, shown
        self._closed = False
        self._items = 0
        self._steps = 0  # that the loops inside took for one item: the most so far
        self._begun: tuple[int, int] = (0, 0)  # steps done and in all, of the finished loops inside this item
        self._current: tuple[int, int] = (0, 0)  # and of the one under way

    def advance(self) -> None:
        self._steps = max(self._steps, self._begun[1] + self._current[1])
        self._items += 1
        self._begun = self._current = (0, 0)
        self.tell()

    def tell(self) -> None:
        done, total = self._state()
        if self.outer is not None:
            if total:
                self.outer._current = (done, total)
            self.outer.tell()
        elif self._shown is not None:
            self._shown[0](self._words(self._items), done, total)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self.outer is not None:
            begun, current = self.outer._begun, self.outer._current
            self.outer._begun, self.outer._current = (begun[0] + current[0], begun[1] + current[1]), (0, 0)
        elif self._shown is not None:
            self._shown[1]()

    def _state(self) -> tuple[int, int]:
        each = max(self._steps, self._begun[1] + self._current[1])
        if not (each and self._total):
            return self._items, self._total
        return self._items * each + self._begun[0] + self._current[0], self._total * each


def _shown(what: str, total: int) -> tuple[Listener, Callable[[], None]]:
    """What shows the outermost loop, and what takes it away."""
    listener = _listener.get()
    if listener is not None:
        return listener, lambda: None
    tqdm = _tqdm()
    quiet = False if "notebook" in tqdm.__module__ else None  # None: quiet where the output is no terminal
    bar = tqdm(desc=what, total=total or None, delay=1.0, leave=False, disable=quiet)

    def show(words: str, done: int, of: int) -> None:
        nonlocal what
        if words != what:
            what = words
            bar.set_description(words, refresh=False)
        if of != (bar.total or 0):
            bar.reset(of or None)
        bar.update(done - bar.n)

    return show, bar.close


def _tqdm() -> Any:
    """The bar for a notebook, where it can show one; ``tqdm.auto`` warns where it cannot, and is no good in threads."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and "IPKernelApp" in shell.config and importlib.util.find_spec("ipywidgets"):
        from tqdm.notebook import tqdm
    else:
        from tqdm import tqdm
    return tqdm


def counted(count: int, noun: str) -> str:
    """A number with its noun, such as "1 training" or "1,200 trainings"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def tally(step: str, done: int, total: int) -> str:
    """How far work is, in numbers: "12 of 600".

    Args:
        step: what it does, in words.
        done: steps done.
        total: of so many; 0 where nobody knows.

    Returns:
        Words; empty where nobody knows, and where the step's own words count.
    """
    return f"{done:,} of {total:,}" if total and not re.search(r"\d of \d", step) else ""
