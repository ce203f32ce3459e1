"""The closed loop: mended labels are what was decided, every control is as large, and each training is made once."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import influence_core as ic
from influence_core.applications import Mending, mend, paired, relabel, retrain
from influence_core.applications.labelling import Labelling
from influence_core.errors import InvalidInput, NotSupported, StaleResult
from influence_core.estimators.changes import data_change
from influence_core.testing import problems
from influence_core.training import fit_fresh
from tests.helpers import states_equal


@pytest.fixture(scope="module")
def study():
    return problems.network_study()


@pytest.fixture(scope="module")
def loss(study):
    return ic.estimators.Loss().fit(study)


@pytest.fixture(scope="module")
def report(study, loss):
    return mend(study, loss, budget=6, seeds=(0, 1), controls=("random", "checked", "same", "clean"))


def reviewed(study, loss, exclude=()):
    """A table in which somebody who knows the truth has relabelled every wrong label."""
    table = relabel(study, loss)
    for row, i in enumerate(table["index"]):
        if i in exclude:
            table.loc[row, "decision"] = "exclude"
        elif study.train.corrupted[i]:
            table.loc[row, ["decision", "final_label"]] = ["relabel", str(int(study.train.true_labels[i]))]
    return table


def test_true_labels_as_decisions_are_training_on_them_to_the_bit(study, loss, tmp_path):
    file = ic.applications.write_relabels(reviewed(study, loss), tmp_path / "r.csv")
    found = mend(study, decisions=file, seeds=(4, 5), controls=("same", "clean"))
    clean = study.train.with_labels(study.train.true_labels)
    for row, seed in enumerate((4, 5)):
        model, trajectory = fit_fresh(study.model, clean, study.trajectory.recipe, seed=seed, checkpoints=4)
        outputs = ic.models.model_outputs(model, study.test)
        assert torch.equal(found.outcomes["mended"].losses[row], study.loss(outputs, study.test.labels).double())
        assert torch.equal(found.outcomes["mended"].right[row], outputs.argmax(1) == study.test.labels)
        if not row:
            assert states_equal(found.study.model, model)
            assert found.study.trajectory.fingerprint == trajectory.fingerprint
    assert found.study.train.fingerprint == clean.fingerprint
    for name in ("mended", "same", "clean"):
        assert torch.equal(found.outcomes[name].losses, found.outcomes["mended"].losses)
    assert (found.gain_over("clean").value, found.gain_over("clean").interval) == (0.0, (0.0, 0.0))
    assert found.changes["mended"] == [int(study.train.corrupted.sum()), 0]
    assert (found.images["new_label"] == found.images["true_label"]).all()


def test_mend_and_retrain_are_one_path(study, loss):
    table = reviewed(study, loss, exclude=(0, 5))
    found = mend(study, decisions=table, seeds=(0, 1), controls=())
    other = retrain(study, ic.applications.apply_relabels(study.train, table), seeds=(0, 1))
    assert (other.before, other.after) == (found.outcomes["given"].accuracies, found.outcomes["mended"].accuracies)
    assert other.paired == found.gain
    assert str(other.paired) in other._repr_html_()
    assert other.gain == pytest.approx(found.gain.value)
    assert other.study.fingerprint == found.study.fingerprint
    assert [other.relabelled, other.excluded] == found.changes["mended"]
    assert list(found.outcomes) == ["given", "mended"]


def test_suggestions_are_those_of_the_most_suspicious(study, loss, report):
    table = relabel(study, loss).set_index("index")
    most = loss.mislabel_scores().values.topk(6).indices.tolist()
    expected = {i: table.suggested_label[i] for i in most if table.suggested_label[i] != table.given_label[i]}
    assert dict(zip(report.images.train_id, report.images.new_label, strict=True)) == expected
    above = loss.mislabel_scores().values.sort(descending=True).values[5:7].mean()
    assert mend(study, loss, threshold=float(above), seeds=(0,), controls=()).images.equals(report.images)


def test_harmful_images_alone(study):
    ekfac = ic.estimators.EKFAC().fit(study)
    mistakes = study.misclassified()
    harm = -ekfac.influence(mistakes).values.double().sum(1)
    some = mend(study, ekfac, budget=5, among="harmful", seeds=(0,), controls=())
    every = mend(study, ekfac, budget=8, seeds=(0,), controls=())
    suspicion, suggested = ekfac.mislabel_scores().values, study.predictions("train")
    order = [i for i in suspicion.argsort(descending=True).tolist() if harm[i] > 0][:5]
    assert set(some.images.train_id) == {i for i in order if suggested[i] != study.train.labels[i]}
    assert not set(every.images.train_id) <= set(some.images.train_id)
    assert (some.images.harm > 0).all()
    torch.testing.assert_close(torch.tensor(every.images.harm.tolist()).double(), harm[every.images.train_id.tolist()])
    assert some.facts["harmful"] == int((harm > 0).sum())
    assert f"{len(mistakes)} test images are misclassified" in str(some)
    assert "too good" in str(some)


@pytest.mark.parametrize("seed", range(5))
def test_the_random_control_changes_exactly_as_many(study, seed):
    train = study.train
    labels, keep = train.labels.clone(), torch.ones(24, dtype=torch.bool)
    labels[:7] = (labels[:7] + 1) % 3
    keep[[3, 20, 21]] = False  # of which one was relabelled as well
    decided = Labelling(labels, keep)
    assert (len(decided.relabelled(train)), len(decided.excluded()), len(decided.touched(train))) == (6, 3, 9)
    drawn = decided.at_random(train, 3, seed)
    assert (len(drawn.relabelled(train)), len(drawn.excluded()), len(drawn.touched(train))) == (6, 3, 9)
    assert torch.equal(drawn.labels, decided.at_random(train, 3, seed).labels)
    assert not torch.equal(drawn.labels, decided.at_random(train, 3, seed + 1).labels)
    checked = decided.checked_at_random(train, seed)
    changed = checked.touched(train)
    assert torch.equal(checked.labels[changed], train.true_labels[changed])
    assert set(changed.tolist()) <= set(train.corrupted.nonzero().flatten().tolist())


def test_random_labels_are_drawn_from_all_others(study):
    decided = Labelling((study.train.labels + 1) % 3, torch.ones(24, dtype=torch.bool))
    shifts = [(decided.at_random(study.train, 3, s).labels - study.train.labels) % 3 for s in range(20)]
    assert set(torch.cat(shifts).tolist()) == {1, 2}


def test_a_model_that_is_edited(study, loss):
    ekfac = ic.estimators.EKFAC().fit(study)
    table = reviewed(study, loss, exclude=(2,))
    found = mend(study, ekfac, table, by="edit", seeds=(0, 1), controls=("random",))
    new = {i: int(study.train.true_labels[i]) for i in study.train.corrupted.nonzero().flatten().tolist() if i != 2}
    whole = ekfac.parameter_change(remove=[2], relabel=new)
    step = ic.applications.trusted_step(study, whole, data_change(study.train, 3, remove=[2], relabel=new))
    edited = study.edited({name: step * delta for name, delta in whole.items()})
    assert edited.losses().mean() < study.edited(whole).losses().mean()  # the whole edit of this network leads astray
    assert torch.equal(found.outcomes["mended"].losses[1], edited.losses().double())
    assert torch.equal(found.outcomes["given"].losses[0], study.losses().double())
    assert states_equal(found.study.model, edited.model)
    assert not torch.equal(*found.outcomes["random"].losses)
    assert "edited, not trained" in str(found)
    with pytest.raises(NotSupported, match="gives no parameter change"):
        mend(study, loss, by="edit")


# --- each training once


def counted(study, kept, seed):
    """The minimum of a convex problem; the file notes each training, and how many there may be."""
    file = Path(os.environ["TEST_TRAININGS"])  # no global, which would be part of what names a kept training
    most, *done = file.read_text().split()
    if len(done) >= int(most):
        raise KeyboardInterrupt
    file.write_text(" ".join([most, *done, str(seed)]))
    return problems.minimum(study.train.subset(kept))


def test_what_is_broken_off_goes_on(tmp_path, monkeypatch):
    study = problems.convex_study()
    file = tmp_path / "trainings"
    monkeypatch.setenv("TEST_TRAININGS", str(file))
    loss, store = ic.estimators.Loss().fit(study), ic.store.Store(tmp_path / "store")
    asked = {"budget": 9, "seeds": (0, 1), "retrain": "tests.unit.test_mending:counted"}
    asked["controls"] = ("random", "clean")
    file.write_text("99")
    quiet = mend(study, loss, **asked)
    assert file.read_text() == "99" + 4 * " 0" + 4 * " 1"
    file.write_text("5")
    with pytest.raises(KeyboardInterrupt):
        mend(study, loss, store=store, **asked)
    file.write_text("3")  # more than the three that are left are not made
    found = mend(study, loss, store=store, **asked)
    again = mend(study, loss, store=store, **asked)
    for name, outcome in quiet.outcomes.items():
        assert torch.equal(outcome.losses, found.outcomes[name].losses)
        assert torch.equal(outcome.losses, again.outcomes[name].losses)
    expected = problems.minimum(study.train.with_labels(found.labels))
    assert states_equal(found.study.model, expected)
    assert found.study.trajectory is None
    assert store.verify() == []


def test_the_recipe_from_a_store_is_the_recipe(study, loss, report, tmp_path):
    store = ic.store.Store(tmp_path)
    for _ in range(2):
        found = mend(study, loss, budget=6, seeds=(0,), controls=("random",), store=store)
        assert found.study.fingerprint == report.study.fingerprint
        assert torch.equal(found.outcomes["random"].losses, report.outcomes["random"].losses[:1])
        assert len(store.entries()) == 3
    retrain(study, found.study.train, seeds=(0,), store=store)
    assert len(store.entries()) == 3  # the same two trainings


# --- the report


def test_saved_and_loaded(study, report, tmp_path):
    report.save(tmp_path / "m.safetensors")
    found = Mending.load(tmp_path / "m.safetensors", study)
    assert found.study.fingerprint == report.study.fingerprint
    assert found.table.equals(report.table)
    assert found.images.equals(report.images)
    assert (str(found), found._repr_html_()) == (str(report), report._repr_html_())
    bare = Mending.load(tmp_path / "m.safetensors")
    assert bare.gain == report.gain
    with pytest.raises(NotSupported, match="loaded without its study"):
        _ = bare.study
    bare.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()
    with pytest.raises(StaleResult, match="about another study"):
        bare.of(study.replaced(weight_decay=0.5))
    ic.estimators.Loss().fit(study).mislabel_scores().save(tmp_path / "s.safetensors")
    with pytest.raises(InvalidInput, match="no report of mending"):
        Mending.load(tmp_path / "s.safetensors")
    tensors = ic.models.load_tensors(tmp_path / "m.safetensors")
    ic.models.save_tensors(tmp_path / "bad.safetensors", tensors, {"mending": '{"images": [], "changes": {"x": 1}}'})
    with pytest.raises(InvalidInput, match="not whole"):
        Mending.load(tmp_path / "bad.safetensors")


def test_table_figure_and_sentences_say_the_same(report):
    table = report.table.set_index("name")
    assert list(table.index) == ["given", "mended", "random", "checked", "same", "clean"]
    assert table.gain["mended"] == pytest.approx(table.accuracy["mended"] - table.accuracy["given"])
    assert table.mended_gain["random"] == pytest.approx(table.accuracy["mended"] - table.accuracy["random"])
    assert (table.low <= table.gain).all()
    assert (table.gain <= table.high).all()
    assert table.relabelled["random"] == table.relabelled["mended"] == len(report.images)
    drawn = [trace for trace in report.figure().data if trace.x is not None]
    assert [trace.x[0] for trace in drawn] == pytest.approx((100 * table.gain[1:]).tolist())
    ends = [trace.x[0] + trace.error_x.array[0] for trace in drawn]
    assert ends == pytest.approx((100 * table.high[1:]).tolist())
    assert f"{100 * table.gain['mended']:+.1f} points" in report.sentences()[0]
    assert "<table>" in report._repr_html_()
    named = dataclasses.replace(report, facts={**report.facts, "study_name": "<b>"})
    assert "&lt;b&gt;" in named._repr_html_()


def test_refusals(study, loss, tmp_path):
    with pytest.raises(InvalidInput, match="threshold and budget are given"):
        mend(study, loss, threshold=1.0, budget=3)
    with pytest.raises(InvalidInput, match="an estimator is needed"):
        mend(study)
    with pytest.raises(NotSupported, match="gives no influence"):
        mend(study, loss, among="harmful")
    with pytest.raises(InvalidInput, match="no row of the table says relabel"):
        mend(study, decisions=relabel(study, loss))
    with pytest.raises(InvalidInput, match="every suggestion is the given label"):
        mend(study, loss, threshold=1e9)
    with pytest.raises(InvalidInput, match="seeds is empty"):
        mend(study, loss, budget=6, seeds=())
    with pytest.raises(InvalidInput, match="no mistake whose harmful images"):
        mend(study, ic.estimators.EKFAC().fit(study), among="harmful", test=())
    with pytest.raises(NotSupported, match="no name by which another process finds it"):
        mend(study, loss, budget=6, store=ic.store.Store(tmp_path), retrain=lambda *_: study.model)
    blind = study.replaced(train=ic.data.LabelledDataset(study.train.base))
    with pytest.raises(NotSupported, match="need true labels"):
        mend(blind, ic.estimators.Loss().fit(blind), budget=6, controls=["clean"])
    found = mend(blind, ic.estimators.Loss().fit(blind), budget=6, seeds=(0,))
    assert list(found.outcomes) == ["given", "mended", "random"]
    with pytest.raises(InvalidInput, match="nothing was trained on 'clean'"):
        found.gain_over("clean")


# --- paired intervals


def test_an_interval_of_two_images_is_the_exact_one():
    """Of 0 and 1 a resample has the mean 0, 1/2 or 1 with chances 1/4, 1/2, 1/4."""
    assert paired(torch.tensor([[0.0, 1.0]])) == (0.5, (0.0, 1.0))
    assert paired(torch.tensor([[0.0], [1.0]])) == (0.5, (0.0, 1.0))


def test_seeds_and_images_both_count():
    generator = torch.Generator().manual_seed(0)
    images, seeds = torch.randn(1, 400, generator=generator), torch.randn(30, 1, generator=generator)

    def half(gain):
        return (gain.interval.high - gain.interval.low) / 2

    expected = {
        "images": float(images.std()) / 400**0.5,
        "seeds": float(seeds.std()) / 30**0.5,
    }
    assert half(paired(images.expand(30, 400))) == pytest.approx(1.96 * expected["images"], rel=0.1)
    assert half(paired(seeds.expand(30, 400))) == pytest.approx(1.96 * expected["seeds"], rel=0.1)
    both = (expected["images"] ** 2 + expected["seeds"] ** 2) ** 0.5
    assert half(paired(images + seeds)) == pytest.approx(1.96 * both, rel=0.1)


def test_the_interval_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        rows, columns = 0.3 * generator.normal(size=(8, 1)), generator.normal(size=(1, 60))
        cells = generator.normal(size=(8, 60))
        low, high = paired(torch.tensor(0.1 + rows + columns + cells), seed=trial).interval
        hits += low <= 0.1 <= high
    assert hits >= 90


def test_pairing_is_what_makes_it_narrow():
    generator = torch.Generator().manual_seed(0)
    hard = torch.rand(1, 300, generator=generator)
    right = [(torch.rand(5, 300, generator=generator) < 0.05) ^ (hard < share) for share in (0.5, 0.55)]
    first, second = (ic.applications.Outcome(r, r.double()) for r in right)
    alone = paired(second.right.double()).interval
    gain = second.gain(first)
    assert gain.interval.high - gain.interval.low < 0.7 * (alone.high - alone.low)
    assert gain.value == pytest.approx(second.accuracy - first.accuracy)


def test_differences_are_checked():
    for bad in (torch.zeros(3), torch.zeros(0, 3), torch.tensor([[float("nan")]])):
        with pytest.raises(InvalidInput, match="expected finite numbers"):
            paired(bad)
