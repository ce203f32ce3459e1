"""Jobs in processes of their own: found again, ended, killed, gone on with."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import influence_core as ic
from influence_core.jobs import processes, worker
from influence_core.jobs.table import Table
from influence_core.store import Request, Store

ROOT = Path(__file__).parents[2]
SLOW = 60.0
"""Seconds to wait for a process to begin, on a busy machine."""


@pytest.fixture(scope="module")
def study() -> ic.Study:
    return ic.demo.digits()


@pytest.fixture(scope="module")
def dawdle() -> Iterator[Callable[..., ic.estimators.Estimator]]:
    """An estimator that other tests must not find."""
    from tests import dawdle

    yield dawdle.Dawdle
    del sys.modules["tests.dawdle"]
    del sys.modules["tests"].dawdle
    del dawdle
    gc.collect()


@pytest.fixture
def computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[tuple[int, int]]]:
    """The parts that were computed: first row, and by which process."""
    path = tmp_path / "computed"
    path.touch()
    monkeypatch.setenv("DAWDLE_COMPUTED", str(path))
    return lambda: [(int(a), int(b)) for a, b in (line.split() for line in path.read_text().splitlines())]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("INFLUENCE_WORKERS", "1")
    store = Store(tmp_path / "store")
    yield store
    for job in ic.jobs.jobs(store):
        job.cancel()


PLUGIN = """
import torch
import influence_core as ic

@ic.models.register("plain_for_jobs")
class Plain(torch.nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.layer = torch.nn.Linear(width, 10)

    def forward(self, x):
        return self.layer(x.flatten(1))
"""


@pytest.fixture(scope="module")
def plugged(study: ic.Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose model is defined in a plugin that has run here."""
    home = tmp_path_factory.mktemp("plugged")
    (home / "plain.py").write_text(PLUGIN)
    ic.models.load_plugin(home / "plain.py")
    made = ic.models.build("plain_for_jobs", width=64)
    return study.replaced(model=made, trajectory=None).save(home / "saved", plugin=home / "plain.py")


def until(true: Callable[[], object], seconds: float = SLOW) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


def pid(job: ic.jobs.Job) -> int:
    until(lambda: job.row.handed)
    return processes.pid_of(str(job.row.process))


def test_a_worker_computes_what_the_call_gives_and_goes_on_with_what_waits(
    study: ic.Study,
    dawdle: Callable[..., Any],
    store: Store,
    computed: Callable[[], list[tuple[int, int]]],
    plugged: Path,
) -> None:
    plain = ic.jobs.submit(study, "lastlayer", "influence", [475, 3], store=store, threads=1)
    failing = ic.jobs.submit(study, dawdle(fails="divided\nby zero"), "mislabel_scores", store=store)
    refused = ic.jobs.submit(study, dawdle(fails="refused"), "mislabel_scores", store=store)
    table = Table(store.path)
    whole = Request.of(study, dawdle(), "mislabel_scores")
    table.log(whole.key).symlink_to("/dev/full")
    quiet = ic.jobs.submit(study, dawdle(), "mislabel_scores", store=store)
    theirs = ic.jobs.submit(ic.Study.load(plugged), "loss", "mislabel_scores", store=store)
    again = ic.jobs.submit(study, "lastlayer", "influence", [475, 3], store=store, threads=1)
    assert again.id == plain.id
    assert [job.id for job in ic.jobs.jobs(store)] == [plain.id, failing.id, refused.id, quiet.id, theirs.id]
    assert (plain.state, quiet.state) == ("running", "queued")

    scores = plain.wait(SLOW)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(scores.values, ic.estimators.LastLayer().fit(study).influence([475, 3]).values)
    finally:
        torch.set_num_threads(threads)
    assert "attempt 1" in plain.log()
    assert plain.log(1).endswith("done")
    assert plain.log(0) == ""
    assert str(plain.stability(5)).startswith("top 5 unchanged since ")

    with pytest.raises(ic.InfluenceError, match=r"this should not have happened: ZeroDivisionError: divided \(the log"):
        failing.wait(SLOW)
    assert failing.state == "failed"
    assert "Traceback (most recent call last)" in failing.log()
    assert "Dawdle" in failing.log()
    assert "Dawdle" not in plain.log()
    with pytest.raises(ic.NotSupported, match=r"^this one gives nothing: take another one$"):
        refused.wait(SLOW)

    assert torch.equal(quiet.wait(SLOW).values, dawdle().fit(study).mislabel_scores().values)
    assert theirs.wait(SLOW).values.shape == (1000,), "its model is defined in a plugin"
    pids = {processes.pid_of(str(job.row.process)) for job in (plain, failing, refused, quiet, theirs)}
    assert len(pids) == 1, "one worker computed all five"
    found = ic.jobs.get(plain.id[:7], store)
    assert found.wait().test_ids.tolist() == [475, 3]  # its request is made again from the table
    assert found.resume().state == "done"
    assert ic.jobs.submit(study, "lastlayer", "influence", [475, 3], store=store).row.attempt == 1
    assert ic.jobs.clean(store, [failing.id]) == 1
    assert ic.jobs.clean(store) == 4
    assert ic.jobs.jobs(store) == []
    assert list(table.logs.iterdir()) == []
    known = ic.jobs.submit(study, "lastlayer", "influence", [475, 3], store=store)
    assert (known.state, known.row.attempt) == ("done", 0), "the result was there"


def test_a_killed_job_is_lost_and_goes_on_where_it_was(
    study: ic.Study, dawdle: Callable[..., Any], store: Store, computed: Callable[[], list[tuple[int, int]]]
) -> None:
    estimator = dawdle(pause=0.25)
    job = ic.jobs.submit(study, estimator, "mislabel_scores", store=store)
    until(lambda: len(computed()) >= 3)
    first = pid(job)
    os.kill(first, signal.SIGKILL)
    until(lambda: job.state == "lost", 5)
    assert "resume goes on" in str(job.error)
    partial = job.partial()
    assert partial is not None
    assert 2 * 128 <= len(partial.values) < 1000
    with pytest.raises(ic.InfluenceError, match="its process ended before the work was through"):
        job.wait()

    scores = job.resume().wait(SLOW)
    assert job.row.attempt == 2
    assert torch.equal(scores.values, dawdle().fit(study).mislabel_scores().values)
    by_first = {rows for rows, who in computed() if who == first}
    again = {rows for rows, who in computed() if who not in (first, os.getpid())}
    assert len(by_first & again) <= 1, "a finished shard is skipped; the last may have been killed before it was a file"
    assert len(by_first | again) == 8


def test_work_ends_within_two_seconds_and_when_nobody_wants_it(
    study: ic.Study, dawdle: Callable[..., Any], store: Store, computed: Callable[[], list[tuple[int, int]]]
) -> None:
    stepping = ic.jobs.submit(study, dawdle(pause=30.0, steps=600), "mislabel_scores", store=store)
    deaf = ic.jobs.submit(study, dawdle(pause=30.0, steps=1), "mislabel_scores", store=store)
    unwanted = ic.jobs.submit(
        study, dawdle(pause=20.0, steps=400), "mislabel_scores", store=store, keep=False, patience=3.0
    )
    for job in (stepping, deaf):
        until(lambda job=job: unwanted.ask() and job.row.step)
        worker = str(job.row.process)
        began = time.monotonic()
        assert job.cancel().state == "cancelled"
        assert time.monotonic() - began < 2.0
        with pytest.raises(ic.InfluenceError, match=r"it was cancelled: job.resume\(\) goes on"):
            job.wait()
    until(lambda: not processes.alive(worker), 2)
    assert stepping.row.process == deaf.row.process
    until(lambda: unwanted.ask().step)
    assert unwanted.row.process != worker, "another worker goes on with what waits"
    for _ in range(4):
        time.sleep(1.0)
        assert unwanted.ask().state == "running"
    until(lambda: unwanted.state == "cancelled", 8)
    assert "nobody asked for it for 3 s" in str(unwanted.error)
    assert computed() == []


def test_a_job_makes_room_for_what_a_person_looks_at_and_goes_on_afterwards(
    study: ic.Study,
    dawdle: Callable[..., Any],
    store: Store,
    computed: Callable[[], list[tuple[int, int]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INFLUENCE_WORKERS", "1")
    long = ic.jobs.submit(study, dawdle(pause=0.8, steps=40), "mislabel_scores", store=store)
    until(lambda: len(computed()) >= 2)
    looked_at = ic.jobs.submit(study, "loss", "mislabel_scores", store=store, first=True)
    looked_at.wait(SLOW)
    assert long.row.number < looked_at.row.number
    assert len(computed()) < 8, "it was not through before"
    assert "queued: one that a person looks at comes first" in long.log(1000)
    assert torch.equal(long.wait(SLOW).values, dawdle().fit(study).mislabel_scores().values)
    assert long.row.attempt == 2
    rows = [rows for rows, who in computed() if who != os.getpid()]
    assert len(rows) == len(set(rows)) == 8, "nothing was computed twice"


def test_a_worker_that_cannot_even_look_is_killed(
    study: ic.Study, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("influence_core.jobs.asking.dispatch", lambda *_: None)
    monkeypatch.setattr("influence_core.jobs.job.dispatch", lambda *_: None)
    job = ic.jobs.submit(study, "loss", "mislabel_scores", store=store)
    stuck = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = processes.named(stuck.pid)
    assert name is not None
    assert Table(store.path).claim(1, name, worker=True) is not None
    began = time.monotonic()
    assert job.cancel().state == "cancelled"
    assert time.monotonic() - began < 2.0
    stuck.communicate()
    assert stuck.returncode == -signal.SIGKILL


def test_a_worker_that_is_told_to_end_does(
    study: ic.Study, dawdle: Callable[..., Any], store: Store, computed: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("influence_core.jobs.asking.dispatch", lambda *_: None)
    job = ic.jobs.submit(study, dawdle(pause=30.0, steps=600), "mislabel_scores", store=store)
    table, before = Table(store.path), signal.getsignal(signal.SIGTERM)
    row = table.claim(1, processes.this(), worker=True)
    assert row is not None
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    assert not worker.computed(table, row)
    timer.join()
    assert job.state == "lost"
    assert "told to end (SIGTERM)" in str(job.error)
    assert signal.getsignal(signal.SIGTERM) is before


SUBMIT = """
import sys
import influence_core as ic
from influence_core.store import Store
from tests.dawdle import Dawdle
study, store = ic.demo.digits(), Store(sys.argv[1])
print("ready", flush=True)
input()
job = ic.jobs.submit(study, Dawdle(pause=0.02), "mislabel_scores", store=store)
print(job.id, flush=True)
input()
"""


def test_two_processes_that_ask_at_once_get_one_worker_which_outlives_them(
    study: ic.Study, dawdle: Callable[..., Any], store: Store, computed: Callable[[], list[tuple[int, int]]]
) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", SUBMIT, str(store.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    other.stdin.write("\n")
    other.stdin.flush()
    job = ic.jobs.submit(study, dawdle(pause=0.02), "mislabel_scores", store=store)
    assert other.stdout.readline().strip() == job.id
    until(lambda: job.row.handed)
    other.kill()
    other.communicate()
    assert job.wait(SLOW).values.shape == (1000,)
    assert job.row.attempt == 1
    assert job.row.asks >= 2
    assert len({who for _, who in computed()}) == 1
    assert len(computed()) == 8


def test_a_damaged_result_is_asked_for_again(study: ic.Study, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("influence_core.jobs.asking.dispatch", lambda *_: None)
    monkeypatch.setattr("influence_core.jobs.job.dispatch", lambda *_: None)
    ic.run(study, "loss", "mislabel_scores", store=store)
    job = ic.jobs.submit(study, "loss", "mislabel_scores", store=store)
    assert job.state == "done"
    for path in (store.path / "works" / job.id).rglob("*.npy"):
        path.write_bytes(path.read_bytes()[:-8] + b"damaged!")
    with pytest.raises(ic.InvalidInput, match="changed or damaged"):
        job.wait()
    assert job.resume().state == "queued"
    job.cancel()
    assert ic.jobs.submit(study, "loss", "mislabel_scores", store=store).state == "queued"


def test_who_waits_no_longer_leaves_the_job_running(
    study: ic.Study, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("influence_core.jobs.asking.dispatch", lambda *_: None)
    monkeypatch.setattr("influence_core.jobs.job.dispatch", lambda *_: None)
    job = ic.jobs.submit(study, "loss", "mislabel_scores", store=store)
    with pytest.raises(TimeoutError, match=r"Loss \(control\): mislabel scores is not through after 0.0 s: it goes on"):
        job.wait(0)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt, match=rf"the job goes on: ic.jobs.get\('{job.id[:12]}'\)"),
        ic.progress.listen(stop),
    ):
        job.wait()
    assert job.state == "queued"
    assert job.row.asks > 2
    table, me = Table(store.path), processes.this()
    row = table.claim(1, me, worker=True)
    assert row is not None
    table.note(row, step="<b>fitting</b>", done=3, total=9, seconds_left=200.0)
    assert (
        repr(job)
        == f"Job({job.id[:12]}: Loss (control): mislabel scores; running, <b>fitting</b>, 3 of 9, about 3 min left)"
    )
    assert "&lt;b&gt;fitting" in job._repr_html_()
    assert 'value="33"' in job._repr_html_()
    assert (job.done, job.total, job.seconds_left, job.partial(), job.stability()) == (3, 9, 200.0, None, None)
    seen: list[tuple[str, int, int]] = []

    def look(step: str, done: int, total: int) -> None:
        seen.append((step, done, total))
        if done == 3:
            table.note(row, step="the last step", done=0, total=2)
        if step == "the last step" and table.rows()[0].state == "running":
            with ic.progress.listen(lambda *_: None):
                store.compute(job.request)
            table.end(row, "lost", "its process ended")  # after the result was there

    with ic.progress.listen(look):
        assert job.wait(SLOW).values.shape == (1000,)
    assert ("<b>fitting</b>", 3, 9) in seen
    assert ("the last step", 0, 2) in seen
    assert job.state == "done"
    store.remove(job.id)
    with pytest.raises(ic.InfluenceError, match=r"its result is in .* no more: job.resume\(\) computes it again"):
        job.wait()
    assert job.resume().state == "queued"
    ic.jobs.clean(store)
    assert job.cancel().state == "cancelled"
    ic.jobs.clean(store)
    with pytest.raises(ic.InvalidInput, match=r"there is no job .* any more"):
        _ = job.state


def test_ids_are_found_by_their_beginning(study: ic.Study, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("influence_core.jobs.asking.dispatch", lambda *_: None)
    with pytest.raises(ic.InvalidInput, match=r"there is no job 'last' in .*; the last ones are: none yet"):
        ic.jobs.get("last", store)
    for test in range(17):  # of sixteen digits
        job = ic.jobs.submit(
            study,
            "loss" if not test else "ekfac",
            "mislabel_scores" if not test else "influence",
            test=None if not test else [test],
            store=store,
        )
    assert ic.jobs.get("last", store).id == job.id
    assert ic.jobs.get(job.id, store).title == "EK-FAC: influence on test image 16"
    with pytest.raises(ic.InvalidInput, match="there is no job '' in"):
        ic.jobs.get("", store)
    ids = [one.id[0] for one in ic.jobs.jobs(store)]
    twice = next(digit for digit in ids if ids.count(digit) > 1)
    with pytest.raises(ic.InvalidInput, match=rf"{ids.count(twice)} jobs begin with '{twice}' .*: give more digits"):
        ic.jobs.get(twice, store)


def test_what_no_other_process_could_do_is_refused(
    study: ic.Study, dawdle: Callable[..., Any], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.flatten(1))

    monkeypatch.setenv("INFLUENCE_CACHE", str(tmp_path / "cache"))
    own = study.replaced(model=Own(), trajectory=None)
    with pytest.raises(
        ic.NotSupported, match=r'does not open by itself.*; or ask in this process, ic.run\(.*"local"\)'
    ):
        ic.jobs.submit(own, "loss", "mislabel_scores", store=store)
    monkeypatch.setattr(dawdle, "__module__", "__main__")
    with pytest.raises(
        ic.NotSupported, match="what 'Dawdle: mislabel scores' asks is defined in this notebook or script"
    ):
        ic.jobs.submit(study, dawdle(), "mislabel_scores", store=store)
    with pytest.raises(ic.InvalidInput, match="threads is 0"):
        ic.jobs.submit(study, "loss", "mislabel_scores", store=store, threads=0)
    assert not store.path.exists()


def test_a_plugin_runs_for_a_job_if_it_has_run_where_it_was_asked_for(
    plugged: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from influence_core.models import plugins

    monkeypatch.setattr("influence_core.jobs.asking.dispatch", lambda *_: None)
    monkeypatch.setattr("influence_core.jobs.job.dispatch", lambda *_: None)
    mine = ic.Study.load(plugged)
    with monkeypatch.context() as patch:
        patch.setattr(plugins, "_loaded", {})  # as in a process that has not run it
        with pytest.raises(ic.InvalidInput, match=r"needs its plugin plain.py, which is Python code"):
            ic.jobs.submit(mine, "loss", "mislabel_scores", store=store)
    ic.run(mine, "loss", "mislabel_scores", store=store)
    job = ic.jobs.submit(mine, "loss", "mislabel_scores", store=store)
    with monkeypatch.context() as patch:
        patch.setattr(plugins, "_loaded", {})
        found = ic.jobs.get(job.id, store)
        with pytest.raises(ic.InvalidInput, match="which is Python code"):
            found.wait()
        assert ic.jobs.get(job.id, store, trust=True).wait().values.shape == (1000,)
    store.remove(job.id)
    job.resume()
    table = Table(store.path)
    row = table.claim(1, processes.this(), worker=True)
    assert row is not None
    (plugged.parent / "plain.py").write_text(PLUGIN + "# changed\n")
    try:
        assert worker.computed(table, row)
    finally:
        (plugged.parent / "plain.py").write_text(PLUGIN)
    with pytest.raises(ic.InvalidInput, match="is not the file that the study was saved with"):
        job.wait(SLOW)
