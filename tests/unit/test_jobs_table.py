"""The table of jobs: who may claim what, who is dead, and what neither a clock nor a reused number can fool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import influence_core as ic
from influence_core.jobs import processes, starting, watching
from influence_core.jobs.row import Row
from influence_core.jobs.table import Table
from influence_core.jobs.watching import Stopped, Watch


def asked(id: str, **facts: Any) -> Row:
    return Row(id, f"title of {id}", "study.toml", None, None, "m", "{}", 1, **facts)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path / "store")


@pytest.fixture
def me() -> str:
    return processes.this()


def claimed(table: Table, process: str, limit: int = 9) -> Row:
    row = table.claim(limit, process, worker=True)
    assert row is not None
    return row


# --- processes


def test_a_process_is_known_by_when_it_began(me: str) -> None:
    machine, pid, began = me.split("/")
    assert int(pid) == os.getpid()
    assert processes.alive(me)
    assert not processes.alive(f"{machine}/{pid}/{began}0"), "another process has got the number"
    assert processes.alive(f"elsewhere/{pid}/1"), "nobody here can tell"


def test_a_dead_process_that_nobody_has_waited_for_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = processes.named(child.pid)
    assert name is not None
    assert processes.alive(name)
    processes.kill(name + "0")
    assert processes.alive(name), "another process that had its number was meant"
    processes.kill(name)
    end = time.monotonic() + 10
    while processes.alive(name) and time.monotonic() < end:
        time.sleep(0.01)
    assert not processes.alive(name)
    assert child.poll() in (None, -signal.SIGKILL)
    child.communicate()


def test_ps_tells_of_a_process_where_there_is_no_proc(me: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def told(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        if words[-1] != "7":
            raise subprocess.CalledProcessError(1, words)
        return subprocess.CompletedProcess(words, 0, state + " Sun Nov 29 11:50:01 2026\n")

    monkeypatch.setattr(processes, "_BOOT", tmp_path / "none")
    monkeypatch.setattr(processes.subprocess, "run", told)
    state = "Ss"
    assert str(processes.named(7)).endswith("/7/Sun-Nov-29-11:50:01-2026")
    assert processes.named(8) is None
    state = "Z+"
    assert processes.named(7) is None
    with pytest.raises(ic.NotSupported, match="jobs need Linux or macOS"):
        processes.this()


# --- claims


def test_the_same_request_is_one_job(table: Table, me: str) -> None:
    first = table.enter(asked("a", keep=False))
    again = table.enter(asked("a", first=True))
    assert (again.number, again.asks, again.keep, again.first) == (first.number, 2, True, True)
    assert claimed(table, me).attempt == 1
    assert table.enter(asked("a")).state == "running"
    assert table.claim(9, me, worker=True) is None
    assert [row.id for row in table.rows()] == ["a"]


def test_who_is_looked_at_comes_first_and_then_the_oldest(table: Table, me: str) -> None:
    for id in "abcd":
        table.enter(asked(id, first=id == "c"))
    assert [claimed(table, me).id for _ in "abcd"] == ["c", "a", "b", "d"]


def test_the_youngest_that_nobody_looks_at_give_way_where_there_is_no_room(
    table: Table, me: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = {id: table.enter(asked(id, first=id == "d")) and claimed(table, me) for id in "abcd"}

    def who(limit: int) -> str:
        return "".join(id for id, row in running.items() if table.gives_way(row, limit))

    assert who(4) == ""
    table.enter(asked("e"))
    assert who(4) == "", "it waits for its turn"
    table.enter(asked("f", first=True))
    assert (who(5), who(4), who(3)) == ("", "c", "c")
    table.enter(asked("g", first=True, keep=False))
    assert (who(5), who(4)) == ("c", "bc")
    later = time.monotonic() + 100
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert who(4) == "c", "nobody asks for g any more"

    table.end(running["c"], "queued")
    known = table.row("c")
    assert known is not None
    assert (known.state, known.ended, known.number) == ("queued", None, running["c"].number)
    assert [claimed(table, me).id for _ in range(3)] == ["f", "c", "e"]


def test_no_more_than_the_limit_run(table: Table, me: str) -> None:
    for id in "abc":
        table.enter(asked(id))
    first, second = claimed(table, me, 2), claimed(table, me, 2)
    assert table.claim(2, me, worker=True) is None
    table.end(first, "done")
    assert claimed(table, me, 2).id == "c"
    assert second.id == "b"


def test_many_at_once_claim_each_job_once(table: Table, me: str) -> None:
    start, found = threading.Barrier(6), []

    def work(number: int) -> None:
        start.wait()
        table.enter(asked(f"job {number % 3}"))
        while (row := table.claim(9, me, worker=True)) is not None:
            found.append(row.id)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["job 0", "job 1", "job 2"]
    assert len(table.rows()) == 3


def test_a_dead_worker_loses_its_job_and_gives_room(table: Table, me: str) -> None:
    for id in "ab":
        table.enter(asked(id))
    lost = claimed(table, me + "0", 1)  # the same number, began at another time
    assert claimed(table, me, 1).id == "b"
    row = table.row("a")
    assert row is not None
    assert (row.state, row.attempt) == ("lost", 1)
    assert "resume goes on" in str(row.error)
    table.enter(row)
    again = claimed(table, me)
    assert again.attempt == 2
    table.end(lost, "done")
    assert table.note(lost, done=7) is None, "what the dead attempt says late counts for nothing"
    assert table.rows()[-1].state == "running"


def test_the_clock_decides_nothing(table: Table, me: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table.enter(asked("a", keep=False, patience=5.0))
    row = claimed(table, me)
    now = time.time()
    for other in (now - 9e6, now + 9e6):
        monkeypatch.setattr(time, "time", lambda other=other: other)
        assert table.note(row, done=1) is not None
        assert table.rows()[0].state == "running"
        table.enter(asked(f"at {other}", keep=False))
    monkeypatch.undo()
    assert [claimed(table, me).id, claimed(table, me).id] == [f"at {now - 9e6}", f"at {now + 9e6}"]
    assert [row.state for row in table.rows()] == ["running"] * 3


def test_what_waits_and_nobody_asks_for_does_not_begin(table: Table, me: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table.enter(asked("a", keep=False, patience=5.0))
    table.enter(asked("b", keep=False, patience=5.0))
    table.enter(asked("c"))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 4)
    table.ask("b")
    monkeypatch.setattr(time, "monotonic", lambda: now + 6)
    assert [claimed(table, me).id, claimed(table, me).id] == ["b", "c"]
    row = table.row("a")
    assert row is not None
    assert (row.state, row.error) == ("cancelled", row.unwanted)


def test_cancelling_what_waits_and_what_has_ended(table: Table, me: str) -> None:
    table.enter(asked("a"))
    table.cancel("a")
    assert table.rows()[0].state == "cancelled"
    table.enter(asked("b"))
    table.end(claimed(table, me), "done")
    table.cancel("b")
    assert table.rows()[1].state == "done"
    table.enter(asked("c"))
    claimed(table, me + "0")
    table.cancel("c")
    assert table.rows()[2].state == "cancelled", "its process was dead already"
    table.cancel("nothing")


def test_what_has_ended_is_forgotten_with_its_log(table: Table, me: str) -> None:
    for id in "ab":
        table.enter(asked(id))
        table.log(id).write_text("words")
    table.end(claimed(table, me), "failed", "for a reason")
    table.remove(["a", "b"])
    assert [row.id for row in table.rows()] == ["b"]
    assert [path.name for path in table.logs.iterdir()] == ["b.log"]


# --- files


def test_nobody_has_asked_for_anything_yet(table: Table) -> None:
    assert table.rows() == []
    assert table.row("a") is None
    assert not table.folder.exists()


@pytest.mark.parametrize("content", [b"no database at all" * 100, None])
def test_a_damaged_table_is_a_sentence_and_is_made_anew(table: Table, content: bytes | None) -> None:
    for number in range(8):
        table.enter(replace(asked(f"job {number}"), spec="x" * 3000))
    whole = table.path.read_bytes()
    assert len(whole) > 3 * 4096
    table.path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096) if content is None else content)
    for call in (table.rows, lambda: table.enter(asked("new")), lambda: table.cancel("job 3")):
        with pytest.raises(ic.InvalidInput, match=r"jobs.db is damaged .*: remove it .* results and finished shards"):
            call()
    for path in table.folder.glob("jobs.db*"):
        path.unlink()
    assert table.enter(asked("new")).state == "queued"


def test_a_table_of_another_version_is_refused(table: Table) -> None:
    import sqlite3

    table.enter(asked("a"))
    connection = sqlite3.connect(table.path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(ic.InvalidInput, match="written by another version of this package"):
        table.rows()


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ic.InvalidInput, match=r"cannot be used \(Not a directory\): make room, or name another folder"):
        Table(tmp_path / "file").enter(asked("a"))


# --- what a worker does beside its work


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How the process would have ended."""
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        threading.current_thread()._through.set()  # type: ignore[attr-defined]  # it would be gone

    monkeypatch.setattr(watching.os, "_exit", leave)
    return codes


def begun(table: Table, me: str, **facts: Any) -> tuple[Watch, Row, list[str]]:
    said: list[str] = []
    table.enter(asked("a", **facts))
    row = claimed(table, me)
    watch = Watch(table, row, leave=lambda: said.append("leaves"), say=said.append)
    watch.start()
    return watch, row, said


def dawdle(watch: Watch, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        watch.listen("dawdling", 3, 7)
        time.sleep(0.01)


def test_work_is_told_to_end_at_its_next_step(table: Table, me: str, exits: list[int]) -> None:
    watch, row, said = begun(table, me)
    dawdle(watch, 0.6)
    known = table.row("a")
    assert known is not None
    assert (known.step, known.done, known.total) == ("dawdling", 3, 7)
    table.cancel("a")
    began = time.monotonic()
    with pytest.raises(Stopped):
        dawdle(watch, 5)
    assert time.monotonic() - began < 1
    watch.finish()
    assert watch.outcome == ("cancelled", None)
    assert said == ["dawdling"]
    assert exits == []
    assert row.attempt == 1


def test_the_time_left_is_that_of_what_is_not_there_yet(
    table: Table, me: str, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "TOLD", 0.3)
    watch, _, _ = begun(table, me)
    for done in range(60):  # finished before
        watch.listen("a part", done, 100)
    time.sleep(0.4)
    for done in range(60, 64):
        watch.listen("a part", done + 1, 100)
        time.sleep(0.2)
    watch.finish()
    left = table.rows()[0].seconds_left
    assert left is not None
    assert 5 < left < 30


def test_a_process_that_does_not_react_ends(table: Table, me: str, exits: list[int]) -> None:
    watch, _, said = begun(table, me)
    table.cancel("a")
    began = time.monotonic()
    watch.join(5)
    assert exits == [0]
    assert time.monotonic() - began < 1.9
    assert said[-1] == "leaves"
    assert table.rows()[0].state == "cancelled"


def test_what_nobody_asks_for_ends_and_asking_keeps_it(table: Table, me: str, exits: list[int]) -> None:
    watch, _, _ = begun(table, me, keep=False, patience=0.5)
    for _ in range(4):
        table.ask("a")
        dawdle(watch, 0.25)
    with pytest.raises(Stopped):
        dawdle(watch, 5)
    watch.finish()
    assert watch.outcome is not None
    assert "nobody asked for it" in str(watch.outcome[1])


def test_work_makes_room_for_what_a_person_looks_at(table: Table, me: str, exits: list[int]) -> None:
    watch, _, _ = begun(table, me)
    dawdle(watch, 0.3)
    table.enter(asked("b", first=True))
    with pytest.raises(Stopped):
        dawdle(watch, 5)
    watch.finish()
    assert watch.outcome == ("queued", None)


def test_a_worker_whose_job_is_somebody_elses_by_now_ends(table: Table, me: str, exits: list[int]) -> None:
    watch, row, _ = begun(table, me)
    table.end(row, "lost")
    with pytest.raises(Stopped):
        dawdle(watch, 5)
    watch.finish()


def test_a_table_that_was_damaged_is_no_reason_to_stop(table: Table, me: str, exits: list[int]) -> None:
    watch, _, _ = begun(table, me)
    table.path.write_bytes(b"no database at all" * 100)
    for path in table.folder.glob("jobs.db-*"):
        path.unlink()
    dawdle(watch, 1.0)
    watch.finish()
    assert watch.outcome is None


# --- how many, and how they are started


@pytest.mark.parametrize(
    ("cores", "given", "argument", "most"), [(2, "", None, 1), (16, "", None, 4), (2, "3", None, 3), (2, "3", 5, 5)]
)
def test_the_limit_of_workers(
    cores: int, given: str, argument: int | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting.os, "cpu_count", lambda: cores)
    monkeypatch.setenv(starting.WORKERS, given)
    assert starting.limit(argument) == most


@pytest.mark.parametrize("given", ["none", "0", "-1", "1.5"])
def test_a_limit_that_makes_no_sense(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(starting.WORKERS, given)
    with pytest.raises(ic.InvalidInput, match=f"INFLUENCE_WORKERS={given}: expected the number of jobs"):
        starting.limit()
    with pytest.raises(ic.InvalidInput, match="workers=0: expected"):
        starting.limit(0)


def test_a_worker_that_cannot_be_started_is_a_failed_job(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(starting.subprocess, "Popen", full)
    table.enter(asked("a"))
    starting.dispatch(table)
    row = table.rows()[0]
    assert row.state == "failed"
    assert "no process could be started for it (Cannot allocate memory)" in str(row.error)


def test_a_worker_that_dies_at_once_loses_its_job(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting.sys, "executable", "/bin/false")
    table.enter(asked("a"))
    starting.dispatch(table)
    end = time.monotonic() + 10
    while table.rows()[0].state == "running" and time.monotonic() < end:
        time.sleep(0.02)
    assert table.rows()[0].state == "lost"


# --- since when a ranking is as it is


def test_stability_is_that_of_the_growing_ranking() -> None:
    values = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    scores = ic.Scores(values, torch.arange(60), "influence", test_ids=torch.arange(3))
    for k in (1, 4, 60):
        last = 0
        ends = [values.topk(k, 0, largest=largest).indices for largest in (True, False)]
        for rows in range(k, 61):
            now = [values[:rows].topk(k, 0, largest=largest).indices for largest in (True, False)]
            same = all(
                set(a[:, c].tolist()) == set(b[:, c].tolist()) for a, b in zip(now, ends, strict=True) for c in range(3)
            )
            last = last if same else rows
        assert ic.jobs.stability(scores, k, total=120).since == pytest.approx((last + 1) / 120 if last else k / 120)


def test_stability_of_too_few() -> None:
    scores = ic.Scores(torch.rand(4), torch.arange(4), "mislabel")
    with pytest.raises(ic.InvalidInput, match="k is 5: choose 1 to 4"):
        ic.jobs.stability(scores, 5)
    assert replace(ic.jobs.stability(scores, 4), since=0.5, there=1.0) == ic.jobs.Stability(4, 0.5, 1.0)
