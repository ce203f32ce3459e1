"""What one fit needs several times, computed once: Jacobians that are kept, and the mean diagonal."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

_found: ContextVar[dict[Hashable, tuple[tuple[Any, ...], Any]] | None] = ContextVar("curvature_found", default=None)


@contextmanager
def found_once() -> Iterator[None]:
    """Inside the ``with`` block, in this thread, what ``once`` makes is kept; at the end all of it is let go.

    A block inside another is part of it. Nothing in it may change the weights of a model.

    Yields:
        Nothing.
    """
    if _found.get() is not None:
        yield
        return
    token = _found.set({})
    try:
        yield
    finally:
        _found.reset(token)


def once(what: Hashable, parts: tuple[Any, ...], make: Callable[[], T]) -> T:
    """A result, made once for the same objects while ``found_once`` lasts; elsewhere made each time.

    Args:
        what: is asked for.
        parts: the objects that it depends on, which are compared by identity.
        make: makes it.

    Returns:
        The result, shared: not to be changed.
    """
    known = _found.get()
    if known is None:
        return make()
    key = (what, *map(id, parts))
    if key not in known:
        known[key] = parts, make()  # the parts stay alive, so that no other object gets their ids
    return known[key][1]


def lasting() -> bool:
    """Whether what is made now is kept."""
    return _found.get() is not None
