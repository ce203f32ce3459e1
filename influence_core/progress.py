"""One way to report progress: long loops say what they do, a listener shows it.

Without a listener a ``tqdm`` bar appears for work of more than a second. The app and the job runner listen instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

Listener = Callable[[str, int, int], None]
"""Called as ``listener(what, done, total)``; ``total`` is 0 when unknown."""

_listener: ContextVar[Listener | None] = ContextVar("influence_core_progress", default=None)


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Send the progress of all work inside the ``with`` block to ``listener``.

    Args:
        listener: called with the name of the work, the steps done and the steps in all.

    Yields:
        Nothing; the former listener is back afterwards.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Iterate over ``items`` and report each finished one.

    Args:
        items: what to iterate over.
        what: a few words a person understands, such as "TracIn checkpoints".
        total: number of items, where ``len`` does not tell.

    Yields:
        The items, unchanged.
    """
    if total is None:
        total = len(items) if isinstance(items, Sized) else 0
    listener = _listener.get()
    if listener is None:
        yield from _bar(items, what, total)
        return
    listener(what, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        listener(what, done, total)


def _bar(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    with warnings.catch_warnings():  # a notebook without ipywidgets is no reason to warn
        warnings.simplefilter("ignore")
        from tqdm import tqdm as terminal
        from tqdm.auto import tqdm
    in_notebook = not issubclass(tqdm, terminal) or "notebook" in tqdm.__module__
    quiet = False if in_notebook else None  # None: quiet where the output is no terminal
    yield from tqdm(items, desc=what, total=total or None, delay=1.0, leave=False, disable=quiet)
