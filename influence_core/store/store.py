"""The store: a folder with the answers of requests and with fitted estimators, shared by everyone who asks."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from influence_core.errors import InfluenceError, InvalidInput, StaleResult
from influence_core.estimators import Estimator
from influence_core.machine import cache_folder
from influence_core.progress import counted, track
from influence_core.scores import Scores
from influence_core.store import catalogue
from influence_core.store.catalogue import ABOUT, IN_USE, Damage, Entry
from influence_core.store.claims import claimed
from influence_core.store.compute import FITTED, compute, cut_name, cut_of, fitted, tidy
from influence_core.store.place import LOOK, Place, folder_at, set_aside
from influence_core.store.request import Request
from influence_core.store.result import RESULT, Result, joined, open_result
from influence_core.store.sealed import read_sealed, write_sealed
from influence_core.store.task import Task

STORE = "INFLUENCE_STORE"
"""Environment variable that names another folder for the store."""

BUDGET = 20 * 2**30
"""Bytes that a store takes at most, unless it is told otherwise."""


WHOLE = "whole"
"""In a store, a note for each task all of whose members are there; notes take no room, and are never removed for it."""


@dataclass(frozen=True)
class Progress:
    """How far an answer is, by the files that are there.

    Attributes:
        done: shards that are finished.
        total: shards in all.
        state: "nothing", "fitting" (no shard yet), "shards" or "finished".
        seconds_left: for the rest, by the shards that are finished and one process; ``None`` while there is none.
    """

    done: int
    total: int
    state: Literal["nothing", "fitting", "shards", "finished"]
    seconds_left: float | None = None


class Store:
    """Answers that last: each is computed once, shard by shard, and found by whoever asks again.

    Any number of processes and threads may use one folder. Whatever is killed, a shard that was finished is kept, and
    one that was not is computed by the next who asks.

    Args:
        path: of the folder, made when something is written; by default ``$INFLUENCE_STORE``, or a folder in the user's
            cache.
        budget: bytes that it takes at most: once more is written, the answers that nobody has asked for longest are
            removed; ``None`` for any size.
        also: stores that are only read from, looked at after this one, such as results that came with a study.

    Raises:
        InvalidInput: if the budget is no number of bytes, or the path is a file.

    Example:
        >>> import tempfile
        >>> import influence_core as ic
        >>> store = ic.store.Store(tempfile.mkdtemp())
        >>> request = ic.store.Request.of(ic.demo.digits(), "loss", "mislabel_scores")
        >>> store.find(request) is None, store.compute(request).values.shape, store.progress(request).state
        (True, torch.Size([1000]), 'finished')
    """

    def __init__(
        self, path: str | Path | None = None, budget: float | None = BUDGET, also: tuple[Path, ...] = ()
    ) -> None:
        named = os.environ.get(STORE)
        self.path = Path(path) if path is not None else Path(named) if named else cache_folder() / "store"
        self.budget = budget
        self.also = tuple(also)
        if budget is not None and not budget > 0:
            raise InvalidInput(f"the budget is {budget!r}; it is a number of bytes above 0, or None for any size")
        if self.path.exists() and not self.path.is_dir():
            raise InvalidInput(f"{self.path} is a file; a store is a folder: name another path")

    def __repr__(self) -> str:
        """Where it is."""
        return f"Store({str(self.path)!r})"

    def find(self, request: Task) -> Result | None:
        """The answer, if it is there; nothing is computed.

        Args:
            request: the question.

        Returns:
            ``Scores`` whose values are mapped from the file, or a ``ParameterChange``; ``None`` where there is none.
            The influence on some test images is found among that on more of them. Of a task with members, the list of
            their answers.

        Raises:
            InvalidInput: if a file of it is damaged; the message names it. ``compute`` makes it again.
            StaleResult: if somebody put the answer to another request in its place.
        """
        if request.members:
            found = [self.find(one) for one in request.members] if self.whole(request) else [None]
            return None if any(one is None for one in found) else found
        folder = self._finished(request)
        if folder is None:
            return self._among_others(request)
        with self._used(folder.parent):
            return open_result(folder, request) if (folder / RESULT).is_file() else None

    def fit(self, request: Request) -> Estimator:
        """The fitted estimator of a request: what is there, else fitted now, once for all who ask.

        Args:
            request: the question, of which study and estimator count.

        Returns:
            The estimator; not to be changed where it is shared.

        Raises:
            InvalidInput: if the file cannot be written.
        """
        folder = self._fit(request)
        with self._used(folder.parent):
            self._describe_fit(request)
            estimator = fitted(request, folder)
        assert estimator is not None
        return estimator

    def compute(self, request: Task, estimator: Estimator | None = None) -> Result:
        """The answer: what is there, and what is missing computed now.

        It goes on where others stopped, and shares the work with others who ask for the same now. Progress is reported
        (``influence_core.progress``); a listener that raises ends it, and what is finished stays. Files that are
        damaged are set aside with a ``DamageWarning``, and computed again.

        Args:
            request: the question.
            estimator: from ``fit`` with this request, where it is at hand; by default it is read from its file.

        Returns:
            As from ``find``.

        Raises:
            InvalidInput: if a file cannot be written, for a full disk or a folder that is read only.
        """
        if request.members:
            return self._each(request)
        found = self._sound(request)
        if found is not None:
            return found
        work, fit = self._work(request), self._fit(request)
        with self._used(work), self._used(fit.parent) if request.estimator is not None else nullcontext():
            self._describe(work, request.title, request)
            if request.estimator is not None:
                self._describe_fit(request)
            place = Place(folder_at(work / cut_name(cut_of(request))), request.key)
            compute(request, place, partial(fitted, request, fit) if estimator is None else lambda: estimator)
            found = open_result(place.folder, request)
        self.evict()
        return found

    def folder(self, request: Task) -> Path | None:
        """The folder of a finished answer; ``None`` where there is none."""
        return self._finished(request)

    def whole(self, request: Task) -> bool:
        """Whether the answer is there, or those of all members, by the files alone: no image is read for it.

        Args:
            request: the question.

        Returns:
            Whether there is nothing left to compute.
        """
        if not request.members:
            return self._finished(request) is not None
        try:
            works = read_sealed(self._note(request))["works"]
        except (InvalidInput, KeyError):
            return False
        roots = (self.path, *self.also)
        return all(any((root / "works" / one).glob(f"*/{RESULT}")) for one in works for root in roots)

    def fitted(self, request: Task) -> bool:
        """Whether the fitted estimator of a request is there."""
        return (self._fit(request) / FITTED).is_file()

    def progress(self, request: Task) -> Progress:
        """How far the answer is.

        Args:
            request: the question.

        Returns:
            Shards done and in all.
        """
        shards = request.shards()
        if self.whole(request):
            return Progress(len(shards), len(shards), "finished", 0.0)
        if request.members:
            there = sum(self._finished(one) is not None for one in request.members)
            return Progress(there, len(shards), "shards" if there else "nothing")
        place = self._furthest(request)
        if place is None:
            return Progress(0, len(shards), "nothing")
        done = [rows for rows in shards if place.has(rows)]
        if not done:
            return Progress(0, len(shards), "fitting")
        return Progress(len(done), len(shards), "shards", self._seconds_left(place, done, shards))

    def partial(self, request: Task) -> Scores | None:
        """The scores of the training images that are finished so far.

        Args:
            request: the question; of scores.

        Returns:
            Scores whose ``train_ids`` are these images; ``None`` while there are none.
        """
        if request.is_change:
            return None
        if self._finished(request) is not None:
            found = self.find(request)
            return found if isinstance(found, Scores) else None
        place = self._furthest(request)
        rows, shards = [], []
        for one in request.shards() if place is not None else []:
            assert place is not None
            try:
                shards.append(place.read(one))
                rows.append(one)
            except InfluenceError:  # not there yet; or damaged, which compute says and mends
                continue
        if not shards:
            return None
        ids = torch.cat([torch.arange(one.start, one.stop) for one in rows])
        values = torch.cat([one.tensors["values"] for one in shards])
        return request.answer(values, ids, joined(shards, rows))

    def entries(self) -> list[Entry]:
        """All that is stored, what was used last first."""
        return catalogue.entries(self.path)

    def to_frame(self) -> pd.DataFrame:
        """All that is stored, a row each: key, study, title, state, bytes, used."""
        return catalogue.to_frame(self.entries())

    def usage(self) -> int:
        """Bytes of all files."""
        return sum(entry.bytes for entry in self.entries())

    def remove(self, *keys: str) -> list[Entry]:
        """Remove answers or fitted estimators.

        Args:
            *keys: each the key, or the beginning of one that no other begins with.

        Returns:
            What was removed.

        Raises:
            InvalidInput: if there is no such key, several begin so, or somebody computes it just now.
        """
        return catalogue.remove(self.path, keys)

    def verify(self) -> list[Damage]:
        """Compare every file with its hash.

        Returns:
            What is damaged, a sentence for each file; empty where all is well.
        """
        return catalogue.verify(self.path)

    def evict(self) -> list[Entry]:
        """Remove what nobody has used for longest until the rest fits the budget; what is in use stays.

        Returns:
            What was removed.
        """
        return [] if self.budget is None else catalogue.evict(self.path, self.budget)

    def _each(self, request: Task) -> list[Result]:
        """The answers of all members, and a note that they are there."""
        count = counted(len(request.members), request.noun)
        made = [self.compute(one) for one in track(request.members, lambda done: f"{done:,} of {count}")]
        if not self.whole(request):
            with suppress(InvalidInput, OSError):  # all answers are there, with the note or without it
                folder_at(self.path / WHOLE)
                write_sealed(self._note(request), {"works": [f"{one.family}/{one.key}" for one in request.members]})
        return made

    def _note(self, request: Task) -> Path:
        """The file that says where the answers of all members are."""
        return self.path / WHOLE / f"{request.key}.json"

    def _sound(self, request: Task) -> Result | None:
        """The answer; a damaged one is set aside, where it is ours to change."""
        while True:
            folder = self._finished(request)
            try:
                if folder is None:
                    return self._among_others(request)
                return self.find(request)
            except (InvalidInput, StaleResult) as error:
                if folder is None or not folder.is_relative_to(self.path):
                    raise
                set_aside(folder / RESULT, error)
                tidy(folder)

    def _work(self, request: Task) -> Path:
        return self.path / "works" / request.family / request.key

    def _fit(self, request: Task) -> Path:
        cut = cut_of(request)
        return self.path / "fits" / request.fit_key / f"threads{cut['threads']}-{cut['device']}-torch{cut['torch']}"

    def _finished(self, request: Task) -> Path | None:
        """The folder of a whole answer: with our number of threads, or else any."""
        mine = cut_name(cut_of(request))
        for root in (self.path, *self.also):
            folders = sorted(
                (root / "works" / request.family / request.key).glob(f"*/{RESULT}"), key=lambda p: p.parent.name != mine
            )
            if folders:
                return folders[0].parent
        return None

    def _among_others(self, request: Task) -> Scores | None:
        """The columns of an answer about more test images; one that is damaged is passed over."""
        if request.test is None or not isinstance(request, Request):
            return None
        for root in (self.path, *self.also):
            for path in sorted((root / "works" / request.family).glob(f"*/*/{RESULT}")):
                with suppress(InvalidInput, StaleResult), self._used(path.parent.parent):
                    wanted = set(request.test)
                    there = read_sealed(path.parent.parent / ABOUT)["about"]["test"]
                    if wanted <= set(there):
                        other = Request(request.study, request.estimator, request.what, tuple(there))
                        return _columns(open_result(path.parent, other), request.test)
        return None

    def _furthest(self, request: Task) -> Place | None:
        """The place with the most shards."""
        places = [Place(path, request.key) for path in sorted(self._work(request).glob("rows*")) if path.is_dir()]
        shards = request.shards()
        return max(places, key=lambda place: sum(place.has(rows) for rows in shards), default=None)

    def _seconds_left(self, place: Place, done: list[range], shards: list[range]) -> float | None:
        try:
            facts = [place.read(rows).facts for rows in done[-3:]]
        except InfluenceError:
            return None
        images = sum(len(rows) for rows in done[-3:])
        seconds = sum(one["meta"]["seconds"] for one in facts)
        return float(seconds / images * sum(len(rows) for rows in shards if rows not in done))

    def _describe_fit(self, request: Task) -> None:
        folder = self._fit(request).parent
        self._describe(folder, f"{request.title.partition(':')[0]}: fit", request, request.about_fit)

    def _describe(self, folder: Path, title: str, request: Task, about: dict[str, Any] | None = None) -> None:
        """Say in a folder what it is about."""
        if not (folder / ABOUT).is_file():
            facts = {
                "title": title,
                "study_name": request.study.name,
                "about": request.about if about is None else about,
            }
            write_sealed(folder / ABOUT, facts)

    @contextmanager
    def _used(self, folder: Path) -> Iterator[None]:
        """Keep others from removing a folder meanwhile, and note that it was used."""
        if not folder.is_relative_to(self.path) or (folder.exists() and not os.access(folder, os.W_OK)):
            yield
            return
        while True:
            with claimed(folder_at(folder) / IN_USE, shared=True) as got:
                if got:
                    os.utime(folder / IN_USE)
                    yield
                    return
            time.sleep(LOOK)  # somebody removes it just now


def _columns(found: Result, test: tuple[int, ...]) -> Scores:
    """The scores of some test images."""
    assert isinstance(found, Scores)
    assert found.test_ids is not None
    ids = found.test_ids.tolist()
    places = [ids.index(one) for one in test]
    first, count = places[0], len(places)
    near = places == list(range(first, first + count))
    values = found.values[:, first : first + count] if near else found.values[:, places]
    return replace(found, values=values, test_ids=torch.tensor(test))
