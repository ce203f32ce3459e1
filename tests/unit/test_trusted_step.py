"""How far an edit is trusted: all the way where the loss is the quadratic it is taken for, and no further than that."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.applications import trusted_step, what_if
from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput
from influence_core.estimators.changes import data_change
from influence_core.testing import problems

IDS = [3, 17, 30]


@pytest.fixture(scope="module")
def study():
    return problems.convex_study()


@pytest.fixture(scope="module")
def newton(study):
    return ic.estimators.ConjugateGradient(damping=1e-9, tolerance=1e-11, max_iterations=500).fit(study)


def scaled(change, factor):
    return {name: factor * delta for name, delta in change.items()}


@pytest.mark.parametrize(
    "asked",
    [{"weight": dict.fromkeys(IDS, 0.8)}, {"remove": IDS[:1]}, {"relabel": {3: 2}}],
    ids=["weight", "one", "new"],
)
def test_an_exact_step_is_trusted_whole_and_one_that_is_too_long_by_as_much_is_shortened(study, newton, asked):
    change, data = newton.parameter_change(**asked), data_change(study.train, 3, **asked)
    assert trusted_step(study, change, data) == 1
    assert trusted_step(study, scaled(change, 16), data) == 1 / 16
    assert trusted_step(study, scaled(change, 1 / 16), data) == 1  # a share, never more than was asked for


def test_it_is_the_best_of_its_steps_by_the_objective_itself(study, newton):
    """At the minimum of the loss F is the changed objective, but for odd powers of the step."""
    data, change = data_change(study.train, 3, remove=IDS), scaled(newton.parameter_change(remove=IDS), 9)
    kept, _, weights = data.changed_loss(study.train)

    def objective(step):
        model = study.edited(scaled(change, step)).model
        losses = ic.models.dataset_losses(model, study.loss, study.train, kept)
        penalty = sum(float(p.detach().square().sum()) for p in model.parameters()) * study.weight_decay / 2
        return float(losses @ weights) / data.size + penalty

    steps = [2.0**-n for n in range(10)]
    assert trusted_step(study, change, data) == min(steps, key=objective)


def test_uphill_is_refused_and_what_cannot_be_seen_is_let_through(study, newton):
    data, change = data_change(study.train, 3, remove=IDS), newton.parameter_change(remove=IDS)
    assert trusted_step(study, scaled(change, -1), data) == 0
    assert trusted_step(study, scaled(change, 1e-9), data) == 1


@pytest.mark.parametrize(("kind", "size", "share"), [(torch.float32, 10, 1.0), (torch.bfloat16, 1, 0.05)])
def test_what_rounding_hides_is_let_through(study, kind, size, share):
    """A nearly perfect model, and one of few bits: what the loss seems to do along the edit is noise."""
    model = copy.deepcopy(study.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(size)
    inputs = study.train.batch(range(len(study.train)))[0]
    labels = study.predictions("train") if size > 1 else study.train.labels

    def rounded(dtype):
        train = LabelledDataset(TensorDataset(inputs.to(dtype), labels))
        return ic.Study(copy.deepcopy(model).to(dtype), train, train)

    exact = rounded(torch.float64)
    newton = ic.estimators.ConjugateGradient(damping=1e-3).fit(exact)
    change, data = newton.parameter_change(remove=[3]), data_change(exact.train, 3, remove=[3])
    for one, dtype in ((exact, torch.float64), (rounded(kind), kind)):
        assert trusted_step(one, {name: (share * delta).to(dtype) for name, delta in change.items()}, data) == 1


def test_the_cost_of_a_prediction_has_the_passes_of_its_edit(study, newton):
    alone = ic.estimators.expected_cost(study, newton, "influence", len(study.test), fitted=True)
    expected = ic.applications.expected_what_if(study, newton, images=3, fitted=True)
    assert "48 forward" in alone.passes
    assert f"{48 + 15 * (2 * 48 + 6) + 12:,} forward" in expected.passes
    itself = ic.estimators.GIF(scale=16.0)  # its edits have their own scale
    cost = ic.estimators.expected_cost(study, itself, "parameter_change", 3, fitted=True)
    assert ic.applications.expected_what_if(study, itself, images=3, fitted=True).passes == cost.passes
    with pytest.raises(InvalidInput, match="at least one"):
        ic.applications.expected_what_if(study, newton, images=0)


def test_a_prediction_goes_as_far_as_the_step(study):
    ekfac = ic.estimators.EKFAC(damping=1e-6).fit(problems.network_study())
    network = ekfac.study_
    found = what_if(network, ekfac, [0, 1, 2])
    assert 0 < found.step < 1
    torch.testing.assert_close(found.predicted, found.step * ekfac.influence().group([0, 1, 2]).double())
    delta = ekfac.parameter_change(remove=[0, 1, 2])
    assert torch.equal(found.edited.losses(), network.edited(scaled(delta, found.step)).losses())
    assert f"along 1/{round(1 / found.step):,} of its edit alone" in found.reach
    assert found.reach in found.sentences()
    assert not found.warnings()
    assert set(found.caveats) == set(ekfac.influence().caveats())


def test_scores_that_are_there_are_not_asked_for_again(study, newton, monkeypatch):
    scores = newton.influence()
    expected = what_if(study, newton, IDS).predicted
    monkeypatch.setattr(type(newton), "influence", lambda *_: pytest.fail("asked again"))
    assert torch.equal(what_if(study, newton, IDS, scores=scores).predicted, expected)
    with pytest.raises(InvalidInput, match="on all test images"):
        what_if(study, newton, IDS, scores=ic.estimators.PriorMargin().fit(study).mislabel_scores())


def test_more_than_there_is_to_lose_is_said(study, newton):
    found = what_if(study, newton, IDS)
    assert not found.warnings()
    mean = float(study.losses().mean())
    for fall, wrong in ((0.9 * mean, False), (1.1 * mean, True)):
        receipt = dataclasses.replace(found.receipt, predicted=(-fall,) * len(study.test))
        said = " ".join(dataclasses.replace(found, receipt=receipt).warnings())
        assert ("is all there is" in said) == wrong


def test_an_edit_that_scales_itself_is_left_alone(study):
    gif = ic.estimators.GIF(scale=16.0).fit(study)
    found = what_if(study, gif, IDS)
    assert found.step == 1
    assert torch.equal(found.edited.losses(), study.edited(gif.parameter_change(remove=IDS)).losses())


def test_an_edit_that_overflows_is_shortened(study, newton):
    data, change = data_change(study.train, 3, remove=IDS), scaled(newton.parameter_change(remove=IDS), 2.0**10)
    far = {name: torch.full_like(delta, 1e308) for name, delta in change.items()}
    assert trusted_step(study, far, data) == 0
    assert trusted_step(study, change, data) == 2.0**-10


def test_a_class_that_goes_is_said(study, newton):
    own = (study.train.labels == 1).nonzero().flatten()
    name = study.class_names[1]
    assert f"called {name} would be left" in what_if(study, newton, own).warnings()[0]
    assert f"called {name}" in what_if(study, newton, own, "relabel", labels=2).warnings()[0]
    assert not what_if(study, newton, own[: len(own) // 2]).warnings()


def test_an_edit_that_leads_uphill_shows_its_order_and_no_model(study, newton, monkeypatch):
    right = newton.parameter_change(remove=IDS)
    exact = what_if(study, newton, IDS)
    monkeypatch.setattr(type(newton), "parameter_change", lambda *_, **__: scaled(right, -1))
    found = what_if(study, newton, IDS)
    assert (found.step, found.edited, found.accuracy, found.receipt.scale) == (0, None, None, "rank only")
    assert "does not fall along the edit" in found.warnings()[0]
    torch.testing.assert_close(found.predicted, exact.predicted)  # scores are what they were
    turned = what_if(study, newton, IDS, how="edit")
    assert torch.corrcoef(torch.stack([turned.predicted, exact.predicted]))[0, 1] < -0.99
    assert turned.predicted.abs().max() < 1e-3 * exact.predicted.abs().max()
