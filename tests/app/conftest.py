"""What the tests of the pages share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cachetools import LRUCache

from .runner import LONG, work  # first: it says where the pages are

from parts import studies  # type: ignore[import-not-found]  # isort: skip


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No work goes on, and no study stays open, in the next test."""
    before = set(studies.sources())
    yield
    for task in list(work._tasks.values()):
        work.stop(task)
        work.wait([task], LONG)
        work.forget(task.key)
    for name in set(studies.sources()) - before:
        studies._sources.pop(name)
        studies._studies.pop(name, None)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """This runner does not look again by itself at what is under way, so that answers have to be waited for."""
    monkeypatch.setattr(work, "PATIENCE", LONG)
    monkeypatch.setattr(work, "FORGOTTEN", 10 * LONG)


@pytest.fixture
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a server that has just been started."""
    for room in ("_kept", "_parts"):
        kept = getattr(work, room)
        monkeypatch.setattr(work, room, LRUCache(kept.maxsize, getsizeof=kept.getsizeof))
