from __future__ import annotations

import io
import subprocess
import sys
import time

import pytest

from influence_core.measure import measure
from influence_core.progress import contained, listen, tally, track


def test_a_listener_hears_every_step():
    heard = []
    with listen(lambda *call: heard.append(call)):
        assert list(track("abc", "letters")) == ["a", "b", "c"]
        assert list(track(iter([7, 8]), "unknown")) == [7, 8]
        assert list(track(iter([7]), "told", total=1)) == [7]
    assert heard == [
        *(("letters", done, 3) for done in range(4)),
        *(("unknown", done, 0) for done in range(3)),
        ("told", 0, 1),
        ("told", 1, 1),
    ]


def test_a_step_is_done_only_when_its_work_is():
    heard = []
    with listen(lambda what, done, total: heard.append(done)):
        heard.extend("working" for _ in track([1, 2], "work"))
    assert heard == [0, "working", 1, "working", 2]


def fail(what, done, total):
    raise KeyError(what)


def test_the_former_listener_comes_back():
    outer = []
    with listen(lambda *call: outer.append(call)):
        with pytest.raises(KeyError), listen(fail):
            list(track([1], "inner"))
        list(track([1], "outer"))
    assert outer == [("outer", 0, 1), ("outer", 1, 1)]
    list(track([1], "nobody listens"))
    assert len(outer) == 2


def test_long_work_of_the_package_is_heard(demo):
    import influence_core as ic

    heard = []
    with listen(lambda *call: heard.append(call)):
        ic.estimators.GEX(members=2, epochs=0.1, refresh_batches=1).fit(demo)
    assert sorted({(done, total) for what, done, total in heard if what.startswith("GEX")}) == [(0, 2), (1, 2), (2, 2)]


def test_words_may_count_what_is_finished_while_the_loops_inside_are_steps():
    heard = []
    with listen(lambda *call: heard.append(call)):
        for _ in track("ab", lambda done: f"{done} of 2 letters"):
            list(track(range(3), "strokes"))
    assert {call[1:] for call in heard if call[0] == "1 of 2 letters"} == {(3, 6), (4, 6), (5, 6), (6, 6)}
    assert (heard[0], heard[-1]) == (("0 of 2 letters", 0, 2), ("2 of 2 letters", 6, 6))
    assert [tally(*call) for call in (heard[-1], ("letters", 1200, 2000), ("letters", 3, 0))] == [
        "",
        "1,200 of 2,000",
        "",
    ]


def test_loops_inside_count_towards_the_outer_one():
    heard = []
    with listen(lambda *call: heard.append(call)):
        for _ in track(range(3), "checkpoints"):
            list(track(range(2), "batches"))
    assert {what for what, _, _ in heard} == {"checkpoints"}
    steps = [(done, total) for _, done, total in heard]
    assert steps[0] == (0, 3)
    assert list(dict.fromkeys(steps[1:])) == [(done, 6) for done in range(7)]


def test_more_work_than_expected_is_found_on_the_way():
    heard = []
    with listen(lambda what, done, total: heard.append((done, total))):
        for k in track(range(2), "images"):
            for _ in track(range(2), "outer"):
                list(track(range(3), "inner"))
            if k:
                list(track(range(4), "more"))
            list(track(iter("ab"), "of unknown length"))
    assert heard == sorted(heard)  # neither what is done nor what there is ever falls
    assert heard[-1] == (20, 20)


def test_a_loop_that_was_broken_off_takes_no_part_in_the_next():
    heard = []

    def broken() -> None:
        with contained():
            for _ in track(range(5), "broken"):
                raise KeyError

    with listen(lambda *call: heard.append(call)):
        with pytest.raises(KeyError) as kept:  # and with it the traceback, and the loop in it
            broken()
        list(track([1], "next"))
        for _ in track([1, 2], "left"):
            break
        list(track([1], "last"))
    assert kept
    assert [call for call in heard if call[0] != "broken"] == [
        ("next", 0, 1),
        ("next", 1, 1),
        ("left", 0, 2),
        ("last", 0, 1),
        ("last", 1, 1),
    ]


def test_one_bar_is_shown(monkeypatch):
    from tqdm import tqdm

    made, states = [], []

    class Bar(tqdm):
        def __init__(self, **options):
            made.append(options["desc"])
            super().__init__(**(options | {"disable": False, "delay": 0, "file": io.StringIO()}))

        def close(self):
            states.append((self.n, self.total, self.disable))
            super().close()

    monkeypatch.setattr("influence_core.progress._tqdm", lambda: Bar)
    for _ in track(range(2), "outer"):
        list(track(range(3), "inner"))
    assert made == ["outer"]
    assert states[0] == (6, 6, False)


def test_without_a_listener_nothing_is_printed(capsys):
    list(track([1, 2], "quick"))
    assert capsys.readouterr() == ("", "")


def test_seconds_and_memory():
    """In a process of its own: freed memory that the engine keeps for later would hide the block."""
    script = """
import time, torch
from influence_core.measure import measure
with measure() as cost:
    time.sleep(0.05)
    block = torch.ones(64 * 2**20 // 4)
    block += 1
    del block
assert 0.05 <= cost.seconds < 5, cost
assert cost.peak_memory_mib is None or 60 < cost.peak_memory_mib < 200, cost
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_cost_is_filled_in_when_the_block_fails():
    def work():
        time.sleep(0.01)
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"), measure() as cost:
        work()
    assert cost.seconds >= 0.01
