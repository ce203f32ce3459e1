"""A store whose processes are killed at any moment, and whose files are changed: the same bytes, or a refusal.

    python -m tests.oracle.test_store_kills                  # the full size: 100 kills and 100 flipped bits
    python -m tests.oracle.test_store_kills --kills 20 --flips 0

Each time one or two processes answer a request and are killed with SIGKILL at a uniformly random moment of the time
that a quiet run takes. Then the request is asked again, and the answer compared byte for byte. Processes are forked, so
that imports are paid once; all run with one thread of torch.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import influence_core as ic
from influence_core.errors import InfluenceError
from influence_core.store import Request, Store, compute
from influence_core.store.place import DAMAGED

QUESTIONS: tuple[tuple[str, str, dict[str, Any], dict[str, Any]], ...] = (
    ("tracin", "influence", {"last": 2}, {"test": [3, 17]}),
    ("ekfac", "influence", {}, {"test": [17]}),
    ("conjugategradient", "influence", {"steps": 2}, {"test": [3, 17]}),
    ("gex", "mislabel_scores", {"members": 4, "epochs": 0.5, "refresh_batches": 2}, {}),
    ("trak", "self_influence", {"dim": 64, "last": 3}, {}),
    ("confidentlearning", "mislabel_scores", {"folds": 3, "epoch_share": 0.1}, {}),
    ("lastlayer", "parameter_change", {}, {"remove": [1, 2, 3]}),
)


def asked(study: ic.Study, number: int) -> Request:
    name, what, settings, arguments = QUESTIONS[number % len(QUESTIONS)]
    return Request.of(study, ic.estimators.get(name, **settings), what, **arguments)


def answer_bytes(store: Store, request: Request) -> bytes:
    """The numbers of an answer as they lie on the disk."""
    folder = store.folder(request)
    assert folder is not None
    name = "change.safetensors" if request.what == "parameter_change" else "values.npy"
    return (folder / name).read_bytes()


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def child(store: Path, request: Request) -> int:
    """A process that answers a request."""
    pid = os.fork()
    if pid == 0:
        try:
            with open(os.devnull, "w") as nothing:
                os.dup2(nothing.fileno(), 2)
            Store(store).compute(request)
        finally:
            os._exit(0)
    return pid


def begun(store: Store, request: Request) -> tuple[set[str], set[str], bool]:
    """Names of parts that are finished, and of those that were begun and are not; whether a write was under way."""
    finished, claimed, writing = set(), set(), False
    for path in store.path.rglob("*"):
        if path.suffix == ".safetensors":
            finished.add(str(path.with_suffix("")))
        elif path.suffix == ".claim":
            claimed.add(str(path.with_suffix("")))
        writing |= path.suffix == ".tmp"
    done = {one for one in claimed if one.endswith("/fit") and f"{one[:-4]}/estimator" in finished}
    done |= {one for one in claimed if one.endswith("/result") and Path(f"{one}.json").is_file()}
    return finished, claimed - finished - done, writing


def kills(study: ic.Study, folder: Path, count: int, seed: int = 0) -> Counter[str]:
    """Kill processes that compute answers, and ask again.

    Returns:
        How often: kills, those inside of a part or a write, before the first part and after the end; and how many
        shards were computed again at most after one kill.
    """
    draw, found = random.Random(seed), Counter[str](kills=0)
    quiet = [quiet_run(study, folder / f"quiet-{n}", n) for n in range(min(count, len(QUESTIONS)))]
    for number in range(count):
        request, (expected, took) = asked(study, number), quiet[number % len(quiet)]
        store, workers = Store(folder / "killed"), 1 + number % 2
        while not killed(store, request, workers, draw.uniform(0, took / workers)):
            took *= 0.9  # they had ended: it was no kill, and they are quicker than the quiet run was
        there = store.progress(request).state == "finished"
        finished, unfinished, writing = begun(store, request)
        shards = sum("/rows-" in one for one in unfinished)
        with mock.patch.object(compute, "_computed", wraps=compute._computed) as computed:
            store.compute(request)
        assert answer_bytes(store, request) == expected, f"{request.title}: other bytes after kill {number}"
        assert store.verify() == []
        left = [path for path in store.path.rglob("*") if path.suffix == DAMAGED]
        assert not left, f"a kill damaged {left}"
        already = sum("/rows-" in one for one in finished)
        again = 0 if there else already + computed.call_count - len(request.shards())
        assert again <= 0, "a shard that was finished was computed again"
        assert shards <= workers, f"{shards} shards were begun by {workers} workers"
        found["kills"] += 1
        found["inside a part or a write"] += bool(unfinished or writing)
        found["after the end"] += there
        found["before the first part"] += not (unfinished or writing or there or finished)
        found["between parts"] += bool(finished) and not (unfinished or writing or there)
        found["shards begun anew, at most"] = max(found["shards begun anew, at most"], shards)
        found["shards begun anew, in all"] += shards
    return found


def killed(store: Store, request: Request, workers: int, seconds: float) -> bool:
    """Start processes in an empty store and kill them after some seconds; whether one was there to be killed."""
    shutil.rmtree(store.path, ignore_errors=True)
    pids = [child(store.path, request) for _ in range(workers)]
    time.sleep(seconds)
    there = [pid for pid in pids if os.waitpid(pid, os.WNOHANG) == (0, 0)]
    for pid in there:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return bool(there)


def quiet_run(study: ic.Study, folder: Path, number: int) -> tuple[bytes, float]:
    """The bytes of an uninterrupted run in a process of its own, and its seconds."""
    store, request = Store(folder), asked(study, number)
    start = time.perf_counter()
    os.waitpid(child(store.path, request), 0)
    return answer_bytes(store, request), time.perf_counter() - start


def flips(study: ic.Study, folder: Path, count: int, seed: int = 0) -> Counter[str]:
    """Flip single bits of stored files, of whole answers and of those that were broken off, and ask again.

    Returns:
        How often the file was named when the answer was looked for, set aside when it was computed, or did not matter.
    """
    draw, found = random.Random(seed), Counter[str](flips=0)
    for number in range(count):
        request, store = asked(study, number), Store(folder / f"flipped-{number % len(QUESTIONS)}")
        kept = folder / f"kept-{number % len(QUESTIONS)}"
        if not kept.exists():
            os.waitpid(child(kept, request), 0)
        shutil.rmtree(store.path, ignore_errors=True)
        shutil.copytree(kept, store.path)
        expected = answer_bytes(store, request)
        if number % 3 == 2:  # broken off before the answer was put together
            broken_off(store, request)
        files = [path for path in sorted(store.path.rglob("*")) if path.is_file() and path.stat().st_size]
        path = draw.choice(files)
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        found["flips"] += 1
        refusal = said_by(store, request, expected)
        assert str(store.path) in (refusal or str(store.path)), f"the refusal names no file: {refusal}"
        found["refused by name"] += bool(refusal)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            store.compute(request)
        found["set aside and computed again"] += any(issubclass(one.category, ic.DamageWarning) for one in told)
        assert answer_bytes(store, request) == expected, f"wrong bytes after a flip in {path}"
    return found


def said_by(store: Store, request: Request, expected: bytes) -> str:
    """The refusal of an answer that is looked for; empty where it is right, or not there."""
    try:
        found = store.find(request)
    except InfluenceError as error:
        return str(error)
    if found is not None:
        assert answer_bytes(store, request) == expected, f"wrong numbers of {request.title}"
    return ""


def broken_off(store: Store, request: Request) -> None:
    """An answer as it is just before it is put together: the fit and the first shards."""
    folder = store.folder(request)
    assert folder is not None
    for path in folder.iterdir():
        path.unlink()

    class Enough(Exception):
        pass

    def listen(_: str, done: int, total: int) -> None:
        if total == len(request.shards()) and done == max(1, total // 2):
            raise Enough

    try:
        with ic.progress.listen(listen):
            store.compute(request)
    except Enough:
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_kills_lose_no_finished_part_and_change_no_byte(tmp_path: Path) -> None:
    study = ic.demo.digits()
    with one_thread():
        found = kills(study, tmp_path, 5)
    assert found["kills"] == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_flipped_bits_are_refused_or_computed_again(tmp_path: Path) -> None:
    study = ic.demo.digits()
    with one_thread():
        found = flips(study, tmp_path, 9)
    assert found["refused by name"] + found["set aside and computed again"] > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    study = ic.demo.digits()
    with tempfile.TemporaryDirectory() as folder:
        for title, run, count in (("kills", kills, given.kills), ("flips", flips, given.flips)):
            if count:
                print(f"{title}: {dict(run(study, Path(folder), count, given.seed))}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
