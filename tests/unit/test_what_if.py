"""Predictions against refits that are known, and receipts that say what came of them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import influence_core as ic
from influence_core.applications import Receipt, calibration, in_range, receipts, what_if
from influence_core.applications.trainings import Wanted
from influence_core.applications.trainings import trained as all_trained
from influence_core.errors import InvalidInput, NotSupported, StaleResult
from influence_core.losses import cross_entropy
from influence_core.testing import problems

SIZE = problems.SIDE**2 + 1


def trained(study, data, seed, weights=None):
    return all_trained(study, [Wanted("one", seed, data, weights)], "recipe", None, "training")[0]


def refitted(study, labels, weights):
    """Test losses at the minimum of sum of weight x loss / N + penalty, by Newton steps, float64 [M]."""
    x, _ = study.train.batch(range(len(study.train)))
    x = torch.cat([x.flatten(1), torch.ones(len(x), 1).double()], 1)

    def objective(flat):
        outputs = x @ flat.view(problems.CLASSES, SIZE).T
        return (weights * cross_entropy(outputs, labels)).sum() / len(x) + problems.PENALTY / 2 * flat.square().sum()

    first = study.model[1]
    flat = torch.cat([first.weight, first.bias[:, None]], 1).detach().flatten()
    for _ in range(8):
        slope = torch.autograd.functional.jacobian(objective, flat)
        step = torch.linalg.solve(torch.autograd.functional.hessian(objective, flat), slope)
        flat = flat - step
    assert float(step.abs().max()) < 1e-10
    tests, given = study.test.batch(range(len(study.test)))
    tests = torch.cat([tests.flatten(1), torch.ones(len(tests), 1).double()], 1)
    return cross_entropy(tests @ flat.view(problems.CLASSES, SIZE).T, given)


def convex_retrain(study, kept, seed):
    return problems.minimum(study.train.subset(kept))


@pytest.fixture(scope="module")
def study():
    return problems.convex_study()


@pytest.fixture(scope="module")
def newton(study):
    """The exact influence function of a logistic regression."""
    return ic.estimators.ConjugateGradient(damping=1e-9, tolerance=1e-11, max_iterations=500).fit(study)


IDS = [3, 17, 30]


def ones(study, values=None):
    weights = torch.ones(len(study.train), dtype=torch.float64)
    if values is not None:
        weights[IDS] = torch.tensor(values, dtype=torch.float64)
    return weights


@pytest.mark.parametrize("how", ["influence", "edit"])
def test_small_weights_are_the_derivative_of_the_refit(study, newton, how):
    """Central differences of the refit, whose error is of second order in the step."""
    step = 1e-3
    sides = [refitted(study, study.train.labels, ones(study, [1 + s * step] * 3)) for s in (1, -1)]
    derivative = (sides[0] - sides[1]) / (2 * step)
    found = what_if(study, newton, IDS, "reweight", weights=1 + step, how=how)
    torch.testing.assert_close(found.predicted / step, derivative, rtol=2e-2, atol=2e-4)
    found = what_if(study, newton, IDS, "reweight", weights=dict.fromkeys(IDS, 1 - step), how=how)
    torch.testing.assert_close(found.predicted / -step, derivative, rtol=2e-2, atol=2e-4)


def test_a_removal_raises_what_the_images_helped(study, newton):
    exact = refitted(study, study.train.labels, ones(study, [0.0] * 3)) - study.losses()
    found = what_if(study, newton, IDS)
    torch.testing.assert_close(found.predicted, newton.influence().group(IDS).double())
    assert torch.corrcoef(torch.stack([found.predicted, exact]))[0, 1] > 0.98
    edit = what_if(study, newton, IDS, how="edit")
    assert (edit.predicted - exact).norm() < (found.predicted - exact).norm()  # the loss is no straight line
    assert (found.receipt.how, edit.receipt.how, found.receipt.scale) == ("influence", "edit", "nats")


@pytest.mark.parametrize("how", ["influence", "edit", None])
def test_new_labels(study, newton, how):
    new = {i: int(study.train.true_labels[i] + 1) % 3 for i in IDS}
    labels = study.train.labels.clone()
    labels[IDS] = torch.tensor([new[i] for i in IDS])
    exact = refitted(study, labels, ones(study)) - study.losses()
    found = what_if(study, newton, IDS, "relabel", labels=new, how=how)
    assert torch.corrcoef(torch.stack([found.predicted, exact]))[0, 1] > 0.97
    size = float(found.predicted @ exact / exact.square().sum())  # three of 48 labels are no small change
    assert size == pytest.approx(1, abs=0.15 if how == "influence" else 0.35)
    if how == "influence":  # the slope of the losses along the edit
        change = {name: 1e-6 * delta for name, delta in newton.parameter_change(relabel=new).items()}
        slopes = (study.edited(change).losses() - study.losses()) / 1e-6
        torch.testing.assert_close(found.predicted, slopes, rtol=1e-4, atol=1e-5)
    assert found.receipt.how == (how or "edit")
    in_order = what_if(study, newton, IDS, "relabel", labels=[new[i] for i in IDS], how=how)
    assert torch.equal(in_order.predicted, found.predicted)


def test_half_an_edit_lies_halfway(study, newton):
    change = newton.parameter_change(remove=IDS)
    quarter = change.scaled(0.5).scaled(0.5)
    then = dict(study.edited(quarter).model.named_parameters())
    for name, weight in study.model.named_parameters():
        torch.testing.assert_close(then[name], weight + 0.25 * change[name])
    assert (quarter.meta["scaled"], "scaled" in change.meta, quarter.meta["removed"]) == (0.25, False, 3)
    weights = sum(delta.numel() for delta in change.values())
    assert f"{weights:,} weights" in repr(change)
    assert len(repr(change)) < 200


def test_mistakes_that_would_mend(study, newton):
    harmful = newton.influence(study.misclassified()).values.sum(1).topk(6, largest=False).indices
    found = what_if(study, newton, harmful)
    edited = study.edited(newton.parameter_change(harmful))
    right, then = study.predictions() == study.test.labels, edited.predictions() == study.test.labels
    assert found.mends.tolist() == [i for i in range(12) if then[i] and not right[i]]
    assert found.breaks.tolist() == [i for i in range(12) if right[i] and not then[i]]
    assert len(found.mends) > 0
    assert found.accuracy == edited.accuracy()
    table = found.table.set_index("test_id")
    assert table.predicted_change.is_monotonic_increasing
    assert table.mends[table.mends].index.tolist() == found.mends.tolist()
    assert f"{len(found.mends)} of {len(study.misclassified())} mistakes would be mended" in " ".join(found.sentences())
    assert "<p>" in found._repr_html_()


def test_without_an_edit_a_loss_has_to_be_sure(study):
    tracin = ic.estimators.TracIn().fit(study)
    found = what_if(study, tracin, IDS)
    assert (found.edited, found.accuracy, found.mends, found.breaks) == (None, None, None, None)
    assert found.receipt.scale == "rank only"
    assert "mends" not in found.table


# --- training with weights


def test_training_with_weights_is_training_on_the_weighted_loss():
    """Twice the weight is twice the learning rate, where nothing else is in a step; and no weight is no image."""
    base = problems.network_study()
    recipe = dataclasses.replace(base.trajectory.recipe, optimizer="sgd", momentum=0.0, weight_decay=0.0, rho=0.0)
    slow, fast = (
        base.replaced(
            trajectory=ic.training.Trajectory(
                list(base.trajectory), dataclasses.replace(recipe, learning_rate=rate, batch_size=24)
            )
        )
        for rate in (0.05, 0.1)
    )
    twice = trained(slow, slow.train, 0, weights=torch.full((24,), 2.0).double())
    torch.testing.assert_close(twice.losses, trained(fast, fast.train, 0).losses, rtol=1e-10, atol=0)
    once = trained(slow, slow.train, 0, weights=torch.ones(24).double())
    assert torch.equal(once.losses, trained(slow, slow.train, 0).losses)
    nothing = torch.ones(24).double()
    nothing[:6] = 0.0
    other = slow.train.labels.clone()
    other[:6] = (other[:6] + 1) % 3
    with_other = trained(slow, slow.train.with_labels(other), 0, weights=nothing)
    assert torch.equal(trained(slow, slow.train, 0, weights=nothing).losses, with_other.losses)
    assert not torch.equal(once.losses, with_other.losses)


# --- receipts


def test_verified_against_the_known_refit(study, newton, tmp_path):
    store = ic.store.Store(tmp_path)
    found = what_if(study, newton, IDS, store=store)
    (pending,) = receipts(store)
    assert pending == found.receipt
    assert not pending.verified
    done = found.verify((0, 1), store, convex_retrain)
    kept = torch.ones(48, dtype=torch.bool)
    kept[IDS] = False
    model = problems.minimum(study.train.subset(kept))
    after = cross_entropy(ic.models.model_outputs(model, study.test), study.test.labels)
    torch.testing.assert_close(
        torch.tensor(done.actual, dtype=torch.float64), after - study.losses(), rtol=1e-8, atol=1e-10
    )
    assert done.noise == (0.0,) * 12  # the minimum does not depend on the seed
    assert done.accuracy[0] == pytest.approx(study.accuracy())
    assert receipts(store) == [done]
    again = what_if(study, newton, IDS, store=store)  # what was verified stays, and does not speak for itself
    assert receipts(store) == [done]
    assert "has been checked by training so far" in again.caution
    assert found.caution == again.sentences()[-1]
    assert "like this one" in what_if(study, newton, list(range(20, 32)), store=store).caution
    assert what_if(study, newton, [5, 6, 7]).caution is None
    assert receipts(store, study="other") == receipts(store, estimator="gex") == []
    result = calibration([done, pending])
    assert result.correlation > 0.95
    assert result.table.right.tolist() == [True]


@pytest.mark.parametrize(("action", "given"), [("relabel", {"labels": 0}), ("reweight", {"weights": 3.0})])
def test_verified_by_the_recipe(action, given, tmp_path):
    study = problems.network_study()
    ekfac = ic.estimators.EKFAC().fit(study)
    ids = (study.train.labels != 0).nonzero().flatten()[:5]
    store = ic.store.Store(tmp_path)
    found = what_if(study, ekfac, ids, action, **given, store=store)
    done = found.verify((0,), store)
    if action == "relabel":
        labels = study.train.labels.clone()
        labels[ids] = 0
        after = trained(study, study.train.with_labels(labels), 0)
    else:
        weights = torch.ones(24, dtype=torch.float64)
        weights[ids] = 3.0
        after = trained(study, study.train, 0, weights=weights)
    assert torch.equal(
        torch.tensor(done.actual, dtype=torch.float64), after.losses - trained(study, study.train, 0).losses
    )
    assert done.noise is None
    assert Receipt.load(next((tmp_path / "receipts").glob("*.json"))) == done


def made(predicted, actual, **parts):
    facts = {
        "study": "s", "study_name": "s", "estimator": "ekfac", "parameters": {"damping": 0.1}, "action": "remove",
        "ids": range(10), "labels": (), "weights": (), "how": "influence", "scale": "nats",
        "test_ids": range(len(predicted)),
    }  # fmt: skip
    return Receipt(**(facts | parts), predicted=predicted, actual=actual)


def test_a_receipt_says_what_was_said_and_what_happened():
    one = made([0.5, -0.25, 0.25], [0.25, 0.5, 0.5], ids=(3,), seeds=(4,), accuracy=(0.5, 0.75))
    assert one.sentences() == [
        "EK-FAC says that leaving out 1 training image changes the mean test loss by +0.167 nats.",
        "Trained with and without (1 seed), it changes by +0.417 nats; 2 of 3 losses move the way that was said.",
        "Test accuracy goes from 50.0 to 75.0 %.",
    ]
    assert all(sentence in one._repr_html_() and sentence in repr(one) for sentence in one.sentences())
    assert "trained again so far" in made([1.0], None).sentences()[1]
    assert "nats" not in made([1.0], None, scale="rank only", action="relabel", labels=[0] * 10).sentences()[0]


def test_a_receipt_of_fewer_seeds_does_not_take_the_place_of_one_of_more(tmp_path):
    store = ic.store.Store(tmp_path)
    two, one, none = (made([0.5], [a] if a else None, seeds=s) for a, s in ((0.2, (0, 1)), (0.9, (0,)), (None, ())))
    for receipt in (none, one, two, one, none):
        path = receipt.save(store)
    assert receipts(store) == [two]
    path.write_text("{")
    assert one.save(store) == path  # nothing that is damaged is kept
    assert receipts(store) == [one]


def test_a_receipt_read_back_is_equal(tmp_path):
    store = ic.store.Store(tmp_path)
    one = made([0.1, -1 / 3, 1e-300], [math.pi, -2.0, 0.0], noise=[0.1, 0.2, 0.3], seeds=(4, 5), accuracy=(0.5, 0.75))
    path = one.save(store)
    assert Receipt.load(path) == one
    assert receipts(store) == [one]
    assert [p.name for p in (tmp_path / "receipts").iterdir()] == [path.name]  # nothing half written is left
    other = made([0.1, -1 / 3, 1e-300], None, ids=range(11))
    other.save(store)
    assert {r.key for r in receipts(store)} == {one.key, other.key}
    assert receipts(store, key=one.key) == [one]
    assert receipts(store, key="0" * 32) == []
    path.write_text(path.read_text().replace("3.14159", "2.14159"))
    with pytest.raises(InvalidInput, match="was changed or damaged"):
        Receipt.load(path)
    with pytest.warns(ic.errors.DamageWarning, match="passed over"):
        assert [r.key for r in receipts(store)] == [other.key]
    for bad in ({"actual": [0.1]}, {"predicted": [0.1, 0.2, float("inf")]}, {"action": "burn"}):
        with pytest.raises(InvalidInput):
            dataclasses.replace(one, **bad)


def test_calibration_is_that_of_numpy():
    generator = np.random.default_rng(0)
    pairs = [(p := generator.normal(size=40), 0.7 * p + 0.3 * generator.normal(size=40) + 0.1) for _ in range(3)]
    found = calibration([made(p, a) for p, a in pairs])
    predicted, actual = (np.concatenate(side) for side in zip(*pairs, strict=True))
    assert found.correlation == pytest.approx(np.corrcoef(predicted, actual)[0, 1])
    assert [found.slope, found.intercept] == pytest.approx(np.polyfit(predicted, actual, 1).tolist())
    assert found.table.slope.tolist() == pytest.approx([np.polyfit(p, a, 1)[0] for p, a in pairs])
    assert len(found.points) == 120
    drawn = found.figure().data[-1]
    assert list(drawn.x) == pytest.approx(predicted.tolist())
    assert list(drawn.y) == pytest.approx(actual.tolist())
    assert "3 of 3 checked predictions were right" in found.sentences()[0]
    assert "<table" in found._repr_html_()
    with pytest.raises(InvalidInput, match="none of the 1 receipts is verified"):
        calibration([made([1.0, 2.0], None)])


def test_right_is_a_correlation_and_in_nats_a_slope():
    p = np.linspace(-1, 1, 21)
    wiggle = np.where(np.arange(21) % 2, 1.0, -1.0)
    kinds = [made(p, p), made(p, 3 * p), made(p, 3 * p, scale="rank only"), made(p, -p), made(p, p + 2 * wiggle)]
    assert calibration(kinds).table.right.tolist() == [True, False, True, False, False]
    flat = calibration([made([1.0, 1.0], [0.0, 1.0])])
    assert math.isnan(flat.correlation)
    assert not flat.table.right[0]
    assert len(flat.figure().data) == 2


def test_a_prediction_out_of_range_is_warned_of():
    p = np.linspace(-1, 1, 21)
    right = [made(s * p, s * p, ids=range(n)) for s, n in ((0.1, 5), (1.0, 50))]
    assert in_range(made(0.3 * p, None, ids=range(15)), right) is None  # within a factor of three of both
    assert in_range(made(0.5 * p, None, ids=range(20), action="relabel", labels=range(20)), right) is None
    for other in (made(p, None, ids=range(151)), made(10 * p, None, ids=range(50)), made(p, None, ids=range(5))):
        assert "like this one has been checked by training so far" in in_range(other, right)
    assert "151 training images" in in_range(made(p, None, ids=range(151)), right)
    assert "has been checked by training so far" in in_range(made(p, None), [])
    assert "No prediction of EK-FAC has" in in_range(made(0.5 * p, None, parameters={"damping": 1}), right)
    assert "has been checked" in in_range(right[0], right[:1])  # no prediction speaks for itself
    assert "Of 1 prediction of EK-FAC" in in_range(made(p, None), [made(p, -p, ids=range(7))])
    wrong = [made(0.5 * p, -p, ids=range(n)) for n in (20, 21)]
    assert in_range(made(0.5 * p, None, ids=range(30)), [*right, wrong[0]]) is None  # one of two
    assert "Of 3 predictions" in in_range(made(0.5 * p, None, ids=range(30)), [*right, *wrong])


def test_the_noise_of_the_trainings_is_taken_off_what_they_show():
    """Noise of known size: the corrected correlation is the one without it, and where it is too much nobody knows."""
    generator = np.random.default_rng(0)
    p = generator.normal(size=4000)
    true = 0.8 * p + 0.6 * generator.normal(size=4000)
    for noise, told in ((0.5, True), (1.5, True), (6.0, False)):
        (row,) = calibration(
            [made(p, true + noise * generator.normal(size=4000), noise=[noise] * 4000, seeds=(0, 1))]
        ).table.itertuples()
        assert row.reliability == pytest.approx(1 / (1 + noise**2), abs=0.05)
        assert row.correlation < 0.8 * math.sqrt(1 / (1 + noise**2)) + 0.03
        if told:
            assert (row.corrected, row.right) == (pytest.approx(0.8, abs=0.03), True)
        else:
            assert math.isnan(row.corrected)
            assert row.right is None
    untold = made(p, true + 6 * generator.normal(size=4000), noise=[6.0] * 4000, seeds=(0, 1))
    assert "1 more tell nothing" in calibration([made(p, true), untold]).sentences()[0]
    assert "with more seeds" in in_range(made(p, None, ids=range(9)), [untold])


def test_what_all_test_images_share_is_no_noise_of_the_order():
    """Right up to a constant for each seed: the seeds' noise is that constant alone."""
    generator = np.random.default_rng(0)
    p, shifts = generator.normal(size=500), generator.normal(size=3)
    outcomes = p + shifts[:, None]
    noise = outcomes.std(0, ddof=1) / math.sqrt(3)
    receipt = made(p, outcomes.mean(0), noise=noise, shared=float(noise[0]), seeds=(0, 1, 2))
    (row,) = calibration([receipt]).table.itertuples()
    assert (row.reliability, row.corrected, row.right) == (pytest.approx(1), pytest.approx(1), True)
    one = calibration([made([0.1], [0.1])]).table
    assert one.right[0] is None  # of one test image nobody can tell an order


def test_scores_of_another_study_settings_or_order_are_refused(study, newton):
    other = study.replaced(train=study.train.with_labels(study.train.labels.flip(0)))
    fitted = ic.estimators.LastLayer().fit(study)
    wrong = [
        ic.estimators.LastLayer().fit(other).influence(),
        ic.estimators.LastLayer(damping=10.0).fit(study).influence(),
        fitted.influence(list(range(len(study.test)))[::-1]),
        fitted.influence([0, 1]),
        newton.influence(),
    ]
    for scores in wrong:
        with pytest.raises(InvalidInput, match="on all test images"):
            what_if(study, fitted, IDS, scores=scores)


def test_ids_and_values_as_they_come(study, newton):
    exact = what_if(study, newton, IDS, "relabel", labels=2).receipt
    assert what_if(study, newton, np.array(IDS), "relabel", labels=np.int64(2)).receipt.predicted == exact.predicted
    assert what_if(study, newton, torch.tensor(IDS), "relabel", labels=[2, 2, 2]).receipt.predicted == exact.predicted
    assert what_if(study, newton, dict.fromkeys(IDS, 2), "relabel").receipt.predicted == exact.predicted
    mask = torch.zeros(len(study.train), dtype=torch.bool)
    for bad in (mask, [3.7], [3, 3]):
        with pytest.raises(InvalidInput, match=r"integers|twice"):
            what_if(study, newton, bad, "reweight", weights=0.5)
    with pytest.raises(InvalidInput, match="name one twice"):
        what_if(study, newton, IDS).verify((0, 0))


def test_refusals(study, newton):
    with pytest.raises(InvalidInput, match="action is 'burn'"):
        what_if(study, newton, IDS, "burn")
    with pytest.raises(InvalidInput, match="labels go with action='relabel'"):
        what_if(study, newton, IDS, labels=[0, 1, 2])
    with pytest.raises(InvalidInput, match="needs weights="):
        what_if(study, newton, IDS, "reweight")
    with pytest.raises(InvalidInput, match="leaves no training image"):
        what_if(study, newton, range(len(study.train)))
    with pytest.raises(InvalidInput, match="2 values for 3 ids"):
        what_if(study, newton, IDS, "reweight", weights=[0.5, 0.2])
    with pytest.raises(InvalidInput, match="one for each id"):
        what_if(study, newton, IDS, "reweight", weights={3: 0.5})
    with pytest.raises(InvalidInput, match="no training image 48"):
        what_if(study, newton, [48])
    with pytest.raises(NotSupported, match="gives no influence"):
        what_if(study, ic.estimators.Loss().fit(study), IDS)
    with pytest.raises(NotSupported, match="gives no parameter change"):
        what_if(study, ic.estimators.TracIn().fit(study), IDS, how="edit")
    with pytest.raises(StaleResult, match="fitted on another study"):
        what_if(study.replaced(weight_decay=0.5), newton, IDS)
    with pytest.raises(InvalidInput, match="seeds is empty"):
        what_if(study, newton, IDS).verify(())
    with pytest.raises(NotSupported, match="by 'recipe' alone"):
        what_if(study, newton, IDS, "reweight", weights=0.5).verify((0,), retrain=convex_retrain)
