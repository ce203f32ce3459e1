"""Work in the background: done once, stopped at its next step, forgotten when nobody asks, bounded in memory."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from cachetools import LRUCache

import influence_core as ic
from influence_core.testing import problems

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "pages"))

from parts import work  # type: ignore[import-not-found]  # noqa: E402

LONG = 20.0  # seconds that no test should need


class Gate:
    """Work that goes on, step by step, until it is opened."""

    def __init__(self) -> None:
        self.begun, self.open, self.steps = threading.Event(), threading.Event(), 0

    def __call__(self) -> str:
        self.begun.set()
        for _ in ic.progress.track(range(100_000), "Steps"):
            self.steps += 1
            if self.open.wait(0.005):
                break
        return "through"


@pytest.fixture(autouse=True)
def quiet_room(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing kept of other tests, no patience with what is forgotten, and nothing left behind."""
    monkeypatch.setattr(work, "_kept", LRUCache(10_000, getsizeof=lambda value: min(1250, work._size(value))))
    monkeypatch.setattr(work, "_parts", LRUCache(30_000, getsizeof=lambda value: min(30_000, work._size(value))))
    yield
    for task in list(work._tasks.values()):
        work.stop(task)
        work.wait([task], LONG)
        work.forget(task.key)
    assert until(lambda: not work._tasks)
    assert until(lambda: not work._answering)
    assert not work._locks
    assert not work._makers


def until(holds: Callable[[], Any], seconds: float = LONG) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def through(task: Any) -> Any:
    """The task, once it has ended."""
    work.wait([task], LONG)
    assert not task.under_way
    return task


def test_it_is_done_once_for_all_who_ask() -> None:
    made: list[int] = []
    together = threading.Barrier(8)

    def slow() -> list[int]:
        made.append(1)
        time.sleep(0.1)
        return made

    def ask(_: int) -> Any:
        together.wait(LONG)
        return through(work.ask("shared", slow, "Slow")).value

    with ThreadPoolExecutor(8) as tabs:
        values = list(tabs.map(ask, range(8)))
    assert made == [1]
    assert all(value is made for value in values)
    again = work.ask("shared", slow, "Slow")
    assert (again.state, again.value) == ("done", made)
    assert work.peek("shared").value is made
    assert work.has("shared")
    assert made == [1]


def test_peek_begins_nothing() -> None:
    assert work.peek("nobody asked") is None
    assert not work.has("nobody asked")
    assert not work._tasks


def test_what_answers_have_in_common_is_made_once_by_whoever_comes_first() -> None:
    fits: list[str] = []
    gate = Gate()

    def fit() -> str:
        fits.append("fit")
        return gate()

    first = work.ask("first", lambda: work.once("fit", fit, "Fit") + " 1", "First")
    assert gate.begun.wait(LONG)
    second = work.ask("second", lambda: work.once("fit", fit, "Fit") + " 2", "Second")
    assert until(lambda: second.follows is first)
    assert "Steps" in second.says()  # of the one that makes what it waits for
    asked = first.asked
    time.sleep(0.02)
    second.touch()
    assert first.asked > asked  # whoever waits for the second wants the first
    gate.open.set()
    assert (through(first).value, through(second).value) == ("through 1", "through 2")
    assert fits == ["fit"]
    assert second.follows is None


def test_who_waits_for_another_makes_it_where_that_one_is_stopped() -> None:
    gates = [Gate(), Gate()]
    one_each = iter(gates)

    def fit() -> str:
        return next(one_each)()

    first = work.ask("first", lambda: work.once("fit", fit, "Fit"), "First")
    assert gates[0].begun.wait(LONG)
    second = work.ask("second", lambda: work.once("fit", fit, "Fit"), "Second")
    assert until(lambda: second.follows is first)
    work.stop(first)
    assert through(first).state == "stopped"
    assert gates[1].begun.wait(LONG)
    gates[1].open.set()
    assert through(second).value == "through"


def test_who_stops_what_waits_for_another_stops_both() -> None:
    gate = Gate()
    first = work.ask("first", lambda: work.once("fit", gate, "Fit"), "First")
    assert gate.begun.wait(LONG)
    second = work.ask("second", lambda: work.once("fit", gate, "Fit"), "Second")
    assert until(lambda: second.follows is first)
    work.stop(second)
    assert (through(first).state, through(second).state) == ("stopped", "stopped")


def test_a_failure_is_told_and_stays_until_it_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    made: list[int] = []

    def fails() -> float:
        made.append(1)
        return 1 / (len(made) - 1)

    with caplog.at_level(logging.ERROR, "influence"):
        task = through(work.ask("failure", fails, "Failing"))
    assert task.state == "failed"
    assert isinstance(task.error, ZeroDivisionError)
    assert "ZeroDivisionError" in caplog.text
    assert "in fails" in caplog.text  # the log has the traceback
    assert work.ask("failure", fails, "Failing") is work.peek("failure") is task
    assert not work.has("failure")
    work.forget("failure")
    assert work.peek("failure") is None
    made.append(1)
    assert through(work.ask("failure", fails, "Failing")).value == 0.5


def test_a_refusal_is_no_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def refuses() -> None:
        raise ic.NotSupported("not here")

    with caplog.at_level(logging.INFO):
        task = through(work.ask("refusal", refuses, "Refusing"))
    assert isinstance(task.error, ic.NotSupported)
    assert not caplog.records


def test_what_is_under_way_is_not_forgotten_by_mistake() -> None:
    gate = Gate()
    task = work.ask("running", gate, "Running")
    assert gate.begun.wait(LONG)
    work.forget("running")
    assert work.peek("running") is task
    gate.open.set()
    assert through(task).value == "through"


def test_stop_ends_it_at_the_next_step_and_it_can_be_asked_again() -> None:
    gate = Gate()
    task = work.ask("stopped", gate, "Stopping")
    assert until(lambda: gate.steps > 1)
    work.stop(task)
    assert until(lambda: not task.under_way, 2.0)
    assert task.state == "stopped"
    assert gate.steps < 100_000
    assert not work.has("stopped")
    assert work.peek("stopped") is None
    assert through(work.ask("stopped", lambda: "anew", "Anew")).value == "anew"


def test_what_waits_for_a_worker_stops_at_once_and_never_runs() -> None:
    gates = [Gate() for _ in range(work.WORKERS)]
    busy = [work.ask(("busy", i), gate, "Busy") for i, gate in enumerate(gates)]
    assert all(gate.begun.wait(LONG) for gate in gates)
    ran: list[int] = []
    waiting = work.ask("waiting", lambda: ran.append(1), "Waiting")
    assert "waits for other work" in waiting.says()
    work.stop(waiting)
    assert waiting.state == "stopped"
    again = work.ask("waiting", lambda: "anew", "Waiting")
    for gate in gates:
        gate.open.set()
    assert through(again).value == "anew"
    assert [through(task).state for task in busy] == ["done"] * work.WORKERS
    assert not ran


def test_the_quickest_of_those_that_wait_is_next() -> None:
    gates = [Gate() for _ in range(work.WORKERS)]
    for i, gate in enumerate(gates):
        work.ask(("busy", i), gate, "Busy")
    assert all(gate.begun.wait(LONG) for gate in gates)
    order: list[float] = []
    tasks = [work.ask(s, lambda s=s: order.append(s), "Timed", seconds=s) for s in (9.0, 1.0, 4.0)]
    gates[0].open.set()  # one worker alone
    for task in tasks:
        through(task)
    for gate in gates:
        gate.open.set()
    assert order == [1.0, 4.0, 9.0]


def test_what_nobody_asks_about_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "FORGOTTEN", 0.4)
    left, watched = Gate(), Gate()
    forgotten, wanted = work.ask("left", left, "Left"), work.ask("watched", watched, "Watched")

    def ended() -> bool:
        wanted.touch()
        return not forgotten.under_way

    assert until(ended, 5.0)
    assert forgotten.state == "stopped"
    assert wanted.state == "running"
    watched.open.set()
    assert through(wanted).value == "through"
    assert until(lambda: work.peek("left") is None)
    assert through(work.ask("left", lambda: "anew", "Anew")).value == "anew"


def test_what_fills_in_pauses_while_an_answer_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "PAUSE", LONG)
    filling, answer = Gate(), Gate()
    task = work.ask("filling", filling, "Filling", fills_in=True)
    assert until(lambda: filling.steps > 3)  # alone it goes on
    asked = work.ask("answer", answer, "Answer")
    assert answer.begun.wait(LONG)
    time.sleep(0.1)
    before = filling.steps
    time.sleep(0.3)
    assert filling.steps <= before + 1
    answer.open.set()
    assert through(asked).value == "through"
    assert until(lambda: filling.steps > before + 3, 5.0)
    filling.open.set()
    assert through(task).value == "through"


def test_it_never_pauses_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "PAUSE", 0.05)
    filling, answer = Gate(), Gate()
    work.ask("answer", answer, "Answer")
    assert answer.begun.wait(LONG)
    work.ask("filling", filling, "Filling", fills_in=True)
    assert until(lambda: filling.steps > 5)
    assert not answer.open.is_set()


@pytest.mark.parametrize("how", ["asked for", "needed by an answer", "stopped"])
def test_a_pause_ends_where_somebody_waits_or_wants_it_no_more(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "PAUSE", LONG)
    filling, answer = Gate(), Gate()
    task = work.ask("filling", lambda: work.once("part", filling, "Part"), "Filling", fills_in=True)
    assert until(lambda: filling.steps > 1)
    work.ask("answer", answer, "Answer")
    assert answer.begun.wait(LONG)
    time.sleep(0.05)
    before = filling.steps
    if how == "asked for":
        assert work.ask("filling", lambda: None, "Filling") is task
    elif how == "needed by an answer":
        other = work.ask("other", lambda: work.once("part", lambda: "twice", "Part"), "Other")
    else:
        work.stop(task)
        assert until(lambda: task.state == "stopped", 5.0)
        return
    assert until(lambda: filling.steps > before + 3, 5.0)
    filling.open.set()
    assert through(task).value == "through"
    if how == "needed by an answer":
        assert through(other).value == "through"


def test_what_is_asked_for_does_not_wait_behind_what_fills_in() -> None:
    filling = Gate()
    work.ask("filling", filling, "Filling", fills_in=True)
    assert filling.begun.wait(LONG)
    made: list[int] = []
    behind = work.ask("behind", lambda: made.append(1), "Behind", fills_in=True)
    time.sleep(0.05)
    assert behind.state == "waiting"
    assert work.ask("behind", lambda: None, "Behind") is behind
    assert through(behind).state == "done"
    assert not filling.open.is_set()
    filling.open.set()
    through(work.ask("last", lambda: 0, "Last", fills_in=True))
    assert made == [1]  # both lines had it


def tensor(nbytes: int) -> torch.Tensor:
    return torch.zeros(nbytes, dtype=torch.uint8)


def test_those_of_the_longest_ago_asked_for_are_let_go_first() -> None:
    for i in range(8):
        through(work.ask(i, lambda: tensor(1250), "Answer"))
    assert work.peek(0) is not None  # asked for just now
    work.results()  # and a look at all of them is not asking
    through(work.ask(8, lambda: tensor(1250), "Answer"))
    assert [i for i in range(9) if work.has(i)] == [0, 2, 3, 4, 5, 6, 7, 8]
    assert work._kept.currsize <= work._kept.maxsize
    assert {key for key, _ in work.results()} == {0, 2, 3, 4, 5, 6, 7, 8}


def test_answers_from_fits_larger_than_the_bound_stay_side_by_side() -> None:
    """Else a page that shows both would ask for one, lose the other, and begin again."""
    fits: list[str] = []

    def fit(name: str) -> torch.Tensor:
        fits.append(name)
        return tensor(50_000)

    def page() -> list[str]:
        states = []
        for name in ("a", "b"):
            for what in ("influence", "detection"):
                task = work.ask(
                    (name, what), lambda n=name: (work.once((n, "fit"), lambda: fit(n), "Fit"), tensor(900))[1], what
                )
                states.append(task.state)
                through(task)
        return states

    page()
    assert page() == ["done"] * 4
    assert fits == ["a", "b"]
    assert work._parts.currsize <= work._parts.maxsize
    assert not work.has(("a", "fit"))


def test_an_answer_larger_than_the_bound_is_an_answer_all_the_same() -> None:
    assert through(work.ask("huge", lambda: tensor(1_000_000), "Huge")).value.nbytes == 1_000_000
    assert work.ask("huge", lambda: tensor(1), "Huge").state == "done"


class Big:
    """What a weak reference can look after."""


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_but_the_bounded_store_keeps_a_result_alive(fails: bool) -> None:
    seen: list[weakref.ref[Big]] = []

    def make() -> Big:
        part = Big()
        seen.append(weakref.ref(part))
        if fails:
            raise ic.InvalidInput("no")
        return part

    assert through(work.ask("alive", make, "Alive")).state == ("failed" if fails else "done")
    assert bool(work._tasks) == fails
    work._kept.clear()

    def gone() -> bool:
        gc.collect()
        return seen[0]() is None

    assert until(gone, 5.0)


def test_the_size_of_a_result_is_that_of_its_tensors_each_counted_once() -> None:
    shared = tensor(4000)
    assert 4000 <= work._size([shared, {"again": shared}, (shared,)]) < 5000
    assert 8000 <= work._size({"a": tensor(4000), "b": tensor(4000)}) < 9000
    assert work._size(torch.nn.Linear(10, 10, bias=False)) == 400


def test_the_size_of_a_fit_leaves_out_the_study_that_all_share(demo: ic.Study) -> None:
    fitted = ic.estimators.get("loss").fit(demo)
    scores = fitted.mislabel_scores()
    assert scores.values.nbytes <= work._size(scores) < 20 * scores.values.nbytes
    assert work._size(fitted) < 100_000
    assert work._size([demo, demo.train]) < 1000


ENDS = """
import sys, threading
sys.path.insert(0, "pages")
import torch
from parts import work
import influence_core as ic

work.FORGOTTEN = 1e9
study, once = ic.demo.digits(), threading.Semaphore(0)

def job():
    while True:
        ic.estimators.get("lastlayer").fit(study).mislabel_scores()
        once.release()

for i in range(work.WORKERS):
    work.ask(i, job, "Work")
for i in range(2 * work.WORKERS):
    once.acquire()
print("ends")
"""


def test_python_ends_in_peace_while_torch_is_at_work() -> None:
    """A thread that Python ends inside of torch aborts the process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ENDS], cwd=ROOT, capture_output=True, text=True, timeout=120, env=environment
    )
    assert (done.returncode, done.stdout.strip()) == (0, "ends"), done.stderr[-2000:]


def test_an_edited_model_is_counted_with_its_prediction() -> None:
    study = problems.network_study()
    estimator = ic.estimators.LastLayer().fit(study)
    found = ic.applications.what_if(study, estimator, [0, 1])
    own = sum(t.nbytes for t in (*study.model.parameters(), *study.model.buffers()))
    assert found.edited is not None
    assert work._size(found) - work._size(dataclasses.replace(found, edited=None)) == own
