"""Images removed by somebody's order: the right ones, as many as said, beside as many at random."""

from __future__ import annotations

import pytest
import torch

import influence_core as ic
from influence_core.applications import prune, removal_curves
from influence_core.applications.removal import values
from influence_core.errors import InvalidInput, NotSupported, StaleResult
from influence_core.losses import cross_entropy
from influence_core.testing import problems

SHARES = (0.125, 0.25)  # 6 and 12 of 48


def convex_retrain(study, kept, seed):
    return problems.minimum(study.train.subset(kept))


@pytest.fixture(scope="module")
def study():
    return problems.convex_study()


@pytest.fixture(scope="module")
def truth():
    """Leave-one-out effects on the mean test loss: large where an image is valuable."""
    return problems.leave_one_out_effects().sum(1)


@pytest.fixture(scope="module")
def curves(study, truth):
    by = {"truth": truth, "upside-down": -truth}
    return removal_curves(study, by, "harmful", SHARES, (0, 1), retrain=convex_retrain)


def losses_without(study, ids):
    keep = torch.ones(48, dtype=torch.bool)
    keep[ids] = False
    model = problems.minimum(study.train.subset(keep))
    return cross_entropy(ic.models.model_outputs(model, study.test), study.test.labels)


def test_the_images_that_go_are_those_of_the_order(study, truth, curves):
    assert list(curves.outcomes) == ["random", "truth", "upside-down"]
    for count in (6, 12):
        worst, best = truth.argsort()[:count], truth.argsort(descending=True)[:count]
        for name, ids in (("truth", worst), ("upside-down", best)):
            torch.testing.assert_close(curves.outcomes[name][count].losses[1], losses_without(study, ids))
        drawn = torch.randperm(48, generator=torch.Generator().manual_seed(1))[:count]
        torch.testing.assert_close(curves.outcomes["random"][count].losses[1], losses_without(study, drawn))
        assert curves.outcomes["truth"][count].loss < curves.outcomes["random"][count].loss
        assert curves.outcomes["random"][count].loss < curves.outcomes["upside-down"][count].loss
    torch.testing.assert_close(curves.outcomes["random"][0].losses[0], study.losses().double())
    valuable = removal_curves(study, {"truth": truth}, "valuable", SHARES, (0,), retrain=convex_retrain)
    for count in (6, 12):
        expected = curves.outcomes["upside-down"][count].losses[:1]
        assert torch.equal(valuable.outcomes["truth"][count].losses, expected)


def test_table_figure_and_sentences_say_the_same(study, truth, curves):
    table = curves.table
    assert table.removed.tolist() == 3 * [0, 6, 12]
    assert table.share.tolist() == 3 * [0.0, 0.125, 0.25]
    wrong = study.train.corrupted[truth.argsort()]
    assert table[table.name == "truth"].wrong.tolist() == [0, int(wrong[:6].sum()), int(wrong[:12].sum())]
    row = table[(table.name == "truth") & (table.removed == 12)].iloc[0]
    full = table[(table.name == "truth") & (table.removed == 0)].iloc[0]
    assert row.gain == pytest.approx(row.accuracy - full.accuracy)
    other = table[(table.name == "random") & (table.removed == 12)].iloc[0]
    assert row.over_random == pytest.approx(row.accuracy - other.accuracy)
    assert (full.gain, full.low, full.high, full.over_random) == (0, 0, 0, 0)
    mean = table[(table.name == "truth") & (table.removed > 0)].over_random.mean()
    assert curves.area["truth"] == pytest.approx(mean)
    lines = [trace for trace in curves.figure().data if trace.name]
    assert [trace.name for trace in lines] == [ic.figures.as_text(name) for name in curves.outcomes]
    assert list(lines[1].y) == pytest.approx(table[table.name == "truth"].accuracy.tolist())
    assert [point[0] for point in lines[1].customdata] == [0, 6, 12]
    assert len(curves.sentences()) == 2
    assert "beside as many removed at random" in curves.sentences()[0]
    assert "<table" in curves._repr_html_()


def test_estimators_are_judged_on_the_validation_set(study):
    ekfac = ic.estimators.EKFAC()
    judge = study.replaced(test=study.validation)
    assert torch.equal(values(study, ekfac), ekfac.fit(judge).influence().values.double().sum(1))
    blind = study.replaced(validation=None)
    expected = ic.estimators.EKFAC().fit(blind).influence().values.double().sum(1)
    assert torch.equal(values(blind, ekfac), expected)
    loss = ic.estimators.Loss()
    assert torch.equal(values(study, loss), -study.losses("train").double())
    scores = loss.fit(study).mislabel_scores()
    found = removal_curves(study, [loss], shares=SHARES[:1], seeds=(0,), retrain=convex_retrain)
    other = removal_curves(study, {"loss": scores}, shares=SHARES[:1], seeds=(0,), retrain=convex_retrain)
    assert torch.equal(found.outcomes["loss"][6].losses, other.outcomes["loss"][6].losses)


def test_pruning_drops_the_least_memorised(study):
    ekfac = ic.estimators.EKFAC()
    memorised = ekfac.fit(study).self_influence().values
    found = prune(study, [ekfac], SHARES, (0,), retrain=convex_retrain)
    torch.testing.assert_close(found.outcomes["ekfac"][12].losses[0], losses_without(study, memorised.argsort()[:12]))
    other = prune(study, {"mine": memorised}, SHARES, (0,), retrain=convex_retrain)
    assert torch.equal(other.outcomes["mine"][6].losses, found.outcomes["ekfac"][6].losses)
    assert (found.order, list(found.outcomes)) == ("pruned", ["random", "ekfac"])
    assert "least memorised" in found.figure().layout.xaxis.title.text


def test_a_store_keeps_each_training_once(study, truth, tmp_path):
    store = ic.store.Store(tmp_path)
    asked = {"shares": SHARES[:1], "seeds": (0,), "retrain": convex_retrain, "store": store}
    first = removal_curves(study, {"truth": truth}, "harmful", **asked)
    kept = len(store.entries())
    assert kept == 3  # all, random, truth
    removal_curves(study, {"truth": truth, "same": 2 * truth}, "harmful", **asked)
    assert len(store.entries()) == kept
    again = removal_curves(study, {"truth": truth}, "valuable", **asked)
    assert len(store.entries()) == kept + 1
    assert torch.equal(first.outcomes["random"][6].losses, again.outcomes["random"][6].losses)


def test_refusals(study, truth):
    with pytest.raises(InvalidInput, match="order is 'best'"):
        removal_curves(study, {"truth": truth}, "best")
    with pytest.raises(InvalidInput, match=r"a share of \[1.0\]"):
        removal_curves(study, {"truth": truth}, shares=(0.1, 1.0))
    with pytest.raises(InvalidInput, match="expected 48 finite numbers"):
        removal_curves(study, {"truth": truth[1:]})
    with pytest.raises(InvalidInput, match="two estimators have one name"):
        removal_curves(study, [ic.estimators.Loss(), ic.estimators.Loss()])
    with pytest.raises(InvalidInput, match="two estimators have one name"):
        prune(study, [ic.estimators.Loss(), ic.estimators.Loss()])
    with pytest.raises(InvalidInput, match="name 'random' is that of a control"):
        removal_curves(study, {"random": truth})
    with pytest.raises(NotSupported, match="neither influence nor mislabel"):
        removal_curves(study, [ic.estimators.GIF()])
    scores = ic.estimators.Loss().fit(study).mislabel_scores()
    with pytest.raises(StaleResult, match="belong to another study"):
        removal_curves(study.replaced(weight_decay=0.5), {"loss": scores})
