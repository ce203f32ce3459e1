"""What the tests of the pages share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cachetools import LRUCache

import influence_core as ic
from influence_core.jobs.processes import this
from influence_core.jobs.table import Table

from .runner import LONG, work  # first: it says where the pages are

from parts import results, studies  # type: ignore[import-not-found]  # isort: skip


@pytest.fixture(scope="session", autouse=True)
def store_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the pages store is kept apart from what their user keeps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFLUENCE_STORE", str(tmp_path_factory.mktemp("store")))
        yield


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
    """This runner does not look again by itself at what is under way, so that answers have to be waited for, here."""
    monkeypatch.setattr(work, "PATIENCE", LONG)
    monkeypatch.setattr(results, "IN_SERVER", 1e9)
    monkeypatch.setattr(work, "FORGOTTEN", 10 * LONG)


@pytest.fixture
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ic.store.Store]:
    """A store with nothing in it, and nothing beside the study; its jobs end with the test."""
    monkeypatch.setenv("INFLUENCE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(ic.store, "beside", lambda study: ())
    store = ic.store.Store()
    yield store
    for row in ic.jobs.rows(store):
        if row.process == this():
            Table(store.path).end(row, "cancelled")
        elif row.under_way:
            ic.jobs.Job(store, row.id).cancel()


@pytest.fixture
def nothing_kept(empty_store: ic.store.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a server that has just been started, for the first time."""
    for room in ("_kept", "_parts"):
        kept = getattr(work, room)
        monkeypatch.setattr(work, room, LRUCache(kept.maxsize, getsizeof=kept.getsizeof))
