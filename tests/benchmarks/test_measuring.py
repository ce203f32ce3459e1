"""The arithmetic of the benchmarks: exponents, copies, cuts and what is told of a peer that is missing or disagrees."""

from __future__ import annotations

import pytest
import torch

from tests.benchmarks import gradients, peers, scaling, speed
from tests.benchmarks.contenders import NAIVE, TASKS, naive_norms, naive_products, ours_norms, ours_products
from tests.benchmarks.gauges import spent
from tests.benchmarks.peer_workers import CALLS
from tests.benchmarks.works import make

MIB = 2**20


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_found(power):
    assert scaling.exponent((1_000, 4_000, 64_000), [3e-6 * n**power for n in (1_000, 4_000, 64_000)]) == (
        pytest.approx(power)
    )


def test_copies_are_what_grows_with_the_number_of_images():
    sizes, queries = (1_000, 64_000), 200
    found = {n: {"more": 17 + 2 * n * (queries - 1) * 4 / MIB} for n in sizes}
    assert scaling.copies(found, queries) == pytest.approx(2)
    assert scaling.copies(found, 4) is None  # too little to be seen
    assert scaling.copies({64_000: {"more": 64_000 * 199 * 4 / MIB}}, queries) == pytest.approx(1)


def test_every_estimator_is_asked_for_what_it_gives():
    for name in scaling.estimators():
        what, queries = scaling.asked(name)
        assert queries in {"influence": (scaling.SOLVED, scaling.QUERIES), "mislabel_scores": (0,)}[what]
    assert set(scaling.SETTINGS) <= set(scaling.estimators())


def test_memory_and_time_of_a_block_are_read():
    with spent() as cost:
        held = torch.ones(32 * MIB)
    assert cost.peak >= held.nbytes / MIB * 0.9
    assert cost.seconds > 0
    assert cost.cpu > 0


def test_the_naive_loops_agree_with_ours():
    work = make("A", 6, 3)
    torch.testing.assert_close(naive_products(work), ours_products(work), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(naive_norms(work), ours_norms(work), rtol=1e-3, atol=1e-5)


def test_a_naive_loop_is_timed_on_cuts(monkeypatch):
    seen = []

    def contender(work):
        seen.append((len(work.train[0]), len(work.queries[0])))

    monkeypatch.setattr(gradients, "CUTS", (2, 4))
    gradients._scaled_up(contender, make("A", 9, 3))
    assert seen == [(2, 3), (4, 3)]


def rows(name, note):
    cost = {"seconds": 2.0, "cpu": 3.0, "peak": 5.0}
    good = {**cost, "error": 0.0}
    plain = [{"seconds": 1.0, "cpu": 1.0, "peak": 1.0, "error": 0.0}]
    return [
        gradients._row("T1", "plain", plain, plain, ""),
        gradients._row("T1", "influence_core", [good], plain, ""),
        gradients._row("T1", NAIVE, [{**good, "cpu": 30.0}], plain, ""),
        gradients._row("T1", "torch.func vmap", [{**good, "error": 0.5}], plain, ""),
        gradients._row("T1", name, [], plain, note),
    ]


def test_a_missing_peer_is_a_dash_and_one_that_disagrees_has_no_time(monkeypatch):
    monkeypatch.setattr(speed, "TITLES", {"T1 inner products": "T1"})
    monkeypatch.setattr(gradients, "compare", lambda *_: rows("captum TracInCP", "captum is not installed"))
    _, ours, naive, wrong, missing = speed.by_gradients(gradients.Settings())
    assert all(len(row) == len(speed.HEADS) for row in (ours, naive, wrong, missing))
    assert ours[1:8] == ["influence_core", "2.00", "3.00", "2.00", "3.00", "", "5"]
    assert naive[6] == "0.10"
    assert "scaled up" in naive[8]
    assert wrong[2:] == ["-"] * 6 + ["DISAGREES: error 5.0e-01"]
    assert missing[2:] == ["-"] * 6 + ["captum is not installed"]


@pytest.mark.parametrize(("factor", "note"), [(1.0, ""), (1.1, peers.DISAGREES), (float("nan"), peers.DISAGREES)])
def test_a_solve_that_disagrees_has_no_time(factor, note):
    scores = torch.randn(7, 2, dtype=torch.float64)
    base = {"scores": scores, "seconds": 2.0}
    found = {"scores": factor * 7 * scores, "seconds": 1.0, "wall": 1.0, "memory": 3.0, "version": "1"}
    row = peers.compared(CALLS["kronfluence-ekfac"], found, 0.5, base, 7)
    assert row.note == note
    assert (row.cells()[4:9] == [""] * 5) == bool(note)
    if not note:
        assert row.cells()[4:9] == ["1.000", "1.000", "2.0", "0.50", "3"]


def test_all_titles_of_the_table_are_tasks():
    assert set(speed.TITLES) <= set(TASKS)
    assert set(speed.SOLVED) <= set(CALLS)
