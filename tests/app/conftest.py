"""What the tests of the pages share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cachetools import LRUCache

from .runner import LONG, work


@pytest.fixture
def nobody_loses_patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This runner does not look again by itself at what is under way, so that answers have to be waited for."""
    monkeypatch.setattr(work, "PATIENCE", LONG)
    monkeypatch.setattr(work, "FORGOTTEN", 10 * LONG)
    yield
    for task in list(work._tasks.values()):  # nothing is left to the next test
        work.stop(task)
        work.wait([task])
        work.forget(task.key)


@pytest.fixture
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a server that has just been started."""
    for room in ("_kept", "_parts"):
        kept = getattr(work, room)
        monkeypatch.setattr(work, room, LRUCache(kept.maxsize, getsizeof=kept.getsizeof))
