"""Parameters, refusals and what the scores say about SAM's estimators."""

from __future__ import annotations

import dataclasses
import math
import warnings

import pytest
import torch

import influence_core as ic
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators import SAMGIF, SAMHIF, SAMIF
from influence_core.training import Checkpoint, Trajectory
from tests.helpers import study


@pytest.mark.parametrize(
    ("cls", "parameters", "said"),
    [
        (SAMIF, {"rho": -0.1}, "rho is -0.1"),
        (SAMIF, {"rho": math.nan}, "rho is nan"),
        (SAMHIF, {"p": 1.0}, "p is 1.0"),
        (SAMHIF, {"p": 3.0}, "no derivative"),
        (SAMHIF, {"variant": "half"}, "'full' or 'paper'"),
        (SAMHIF, {"max_response": 0.0}, "max_response is 0.0"),
        (SAMHIF, {"max_iterations": 0}, "max_iterations is 0"),
        (SAMIF, {"damping": -1.0}, "damping is -1.0"),
        (SAMGIF, {"form": "adam"}, "'gd' or 'sgd'"),
        (SAMGIF, {"queries": "first"}, "'final' or 'checkpoint'"),
        (SAMGIF, {"last": 0}, "last is 0"),
        (SAMGIF, {"batch_size": 0}, "batch_size is 0"),
        (SAMGIF, {"momentum": 1.0}, "momentum is 1.0"),
    ],
)
def test_parameters_that_make_no_sense(cls, parameters, said):
    with pytest.raises(InvalidInput, match=said):
        cls(**parameters)


def test_where_rho_comes_from():
    trained = study()
    assert trained.trajectory[-1].rho == 0.05
    other = Trajectory([Checkpoint(**(c.facts() | {"rho": 0.2}), state=c.state) for c in trained.trajectory])
    for given, source, facts in (
        (trained.replaced(trajectory=other), "trajectory", 0.2),
        (trained.replaced(trajectory=None), "default", 0.05),
    ):
        meta = SAMIF(damping=10.0).fit(given).influence([0]).meta
        assert (meta["rho"], meta["rho_from"]) == (facts, source)
    meta = SAMIF(rho=0.3, damping=10.0).fit(trained).influence([0]).meta
    assert (meta["rho"], meta["rho_from"]) == (0.3, "given")


@pytest.mark.parametrize("cls", [SAMIF, SAMHIF, SAMGIF])
@pytest.mark.parametrize("optimizer", ["asam", "fsam"])
def test_the_radius_of_another_ascent_is_not_taken_for_sams(cls, optimizer):
    trained = study()
    recipe = dataclasses.replace(trained.trajectory.recipe, optimizer=optimizer, rho=0.5)
    other = trained.replaced(trajectory=Trajectory(trained.trajectory.checkpoints, recipe))
    with pytest.raises(InvalidInput, match=f"trained with '{optimizer}', whose ascent of radius 0.5 is not SAM's"):
        cls().fit(other)
    assert cls(rho=0.01).fit(other).study_ is other


def test_an_ascent_that_turns_too_far_is_said_and_bounded():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = SAMHIF(rho=0.01).fit(study())
    assert 0 < small.inverse_.response < 1
    assert small.inverse_.scale == 1
    assert "warnings" not in small.influence([0]).meta
    with pytest.warns(UserWarning, match=r"turns SAM's ascent .* times as far"):
        large = SAMHIF(rho=10.0).fit(study())
    assert large.inverse_.response == pytest.approx(1000 * small.inverse_.response)
    assert large.inverse_.scale == pytest.approx(10.0 / large.inverse_.response)
    rows = torch.randn(2, large.ascent_.gradient.numel(), dtype=torch.float64)
    assert torch.equal(large.inverse_.derivative(rows), large.inverse_.scale * large.ascent_.derivative(rows))
    assert "turns SAM's ascent" in large.inverse_.facts()["warnings"][0]


def test_solves_that_run_out_are_said():
    estimator = SAMHIF(rho=0.01, max_iterations=2).fit(study())
    with pytest.warns(UserWarning, match="GMRES stopped after 2 products"):
        scores = estimator.influence([0])
    assert not scores.meta["converged"]
    assert scores.meta["residual"] > estimator.tolerance


def test_the_residual_is_the_worst_of_all_blocks(monkeypatch):
    """Also where each test image is solved for alone, and not that of the last block."""
    trained = study()
    estimator = SAMHIF(rho=0.01, tolerance=1e-3).fit(trained)
    monkeypatch.setattr(SAMHIF, "solve_bytes", 1)
    alone = [estimator.influence([j]).meta["residual"] for j in range(4)]
    assert len(set(alone)) == 4
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        assert estimator.influence(order).meta["residual"] == pytest.approx(max(alone))


@pytest.mark.parametrize("cls", [SAMIF, SAMHIF, SAMGIF])
def test_no_self_influence(cls):
    with pytest.raises(NotSupported, match="no squares and can be negative"):
        cls().self_influence()


def test_the_trajectory_needs_sums_of_rates():
    trained = study()
    bare = Trajectory(
        [Checkpoint(**(c.facts() | {"learning_rate_sum": 0.0}), state=c.state) for c in trained.trajectory]
    )
    with pytest.raises(InvalidInput, match="learning_rate_sum"):
        SAMGIF().fit(trained.replaced(trajectory=bare))


def test_batches_of_the_form_for_sgd():
    """By default those of the recipe; one batch of everything is the other form."""
    trained = study()
    assert SAMGIF(form="sgd").fit(trained).batch_size_ == 8
    assert SAMGIF(form="sgd", batch_size=5).fit(trained).batch_size_ == 5
    unknown = trained.replaced(trajectory=Trajectory(list(trained.trajectory)))
    assert SAMGIF(form="sgd").fit(unknown).batch_size_ == 128
    whole = SAMGIF(form="sgd", batch_size=24).fit(trained).influence().values
    torch.testing.assert_close(whole, SAMGIF(form="gd").fit(trained).influence().values)
    one, two = (SAMGIF(form="sgd", batch_size=4, seed=seed).fit(trained).influence().values for seed in (0, 1))
    assert not torch.allclose(one, two)


def test_the_order_of_positions_is_what_it_was():
    assert SAMIF(0.1, "ggn", 1e-4, 300).max_iterations == 300
    with pytest.raises(InvalidInput, match=r"variant is 0\.05"):
        SAMHIF(0.1, "ggn", 1e-4, 0.05)


def test_they_are_registered():
    for name in ("samif", "samhif", "samgif"):
        assert type(ic.estimators.get(name)).name == name
