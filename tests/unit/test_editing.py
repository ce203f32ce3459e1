"""Edited models side by side: every number of the table by hand, and what is refused."""

from __future__ import annotations

import pytest
import torch

import influence_core as ic
from influence_core.applications import compare_edits, paired, trusted_step
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators import EKFAC, GIF, LastLayer, modified_f1, validated_scale
from influence_core.estimators.changes import data_change
from influence_core.testing import problems

IDS = [3, 17, 30, 31]
NEW = {4: 0, 9: 2}


@pytest.fixture(scope="module")
def study():
    return problems.network_study()


@pytest.fixture(scope="module")
def convex():
    return problems.convex_study()


def by_hand(study, model, removed, new, classes):
    """The row of a model, image by image."""
    said = study.replaced(model=model, trajectory=None).predictions("train").tolist()
    given = study.train.labels.tolist()
    done = [said[i] != given[i] for i in removed] + [said[i] == k for i, k in new.items()]
    kept = [said[i] == given[i] for i in range(len(given)) if i not in removed and i not in new]
    tests = [i for i, k in enumerate(study.test.labels.tolist()) if k in classes]
    told = study.replaced(model=model, trajectory=None).predictions()
    right = (told == study.test.labels)[tests]
    before = (study.predictions() == study.test.labels)[tests]
    gain = paired((right.double() - before.double())[None])
    forgotten, accuracy = sum(done) / len(done), float(right.double().mean())
    return {
        "done": forgotten,
        "train_accuracy": sum(kept) / len(kept),
        "test_accuracy": accuracy,
        "gain": gain.value,
        "low": gain.interval.low,
        "high": gain.interval.high,
        "mended": int((right & ~before).sum()),
        "broken": int((~right & before).sum()),
        "modified_f1": modified_f1(1 - forgotten, accuracy),
    }


def same(row, expected):
    assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("scale", ["trusted", "validation", 0.5])
def test_every_number_by_hand(convex, scale):
    estimators = [LastLayer(), EKFAC(damping=0.01)]
    found = compare_edits(convex, estimators, remove=IDS, relabel=NEW, scale=scale)
    rows = found.table.to_dict("records")
    assert [row["name"] for row in rows] == ["no edit", "lastlayer", "ekfac"]
    same(rows[0], by_hand(convex, convex.model, IDS, NEW, {0, 1, 2}))
    assert rows[0]["gain"] == rows[0]["mended"] == rows[0]["broken"] == 0
    for row, estimator in zip(rows[1:], estimators, strict=True):
        delta = type(estimator)(**estimator.get_params()).fit(convex).parameter_change(remove=IDS, relabel=NEW)
        if scale == "trusted":
            far = trusted_step(convex, delta, data_change(convex.train, 3, remove=IDS, relabel=NEW))
        elif scale == "validation":
            far = validated_scale(convex, delta, torch.tensor(IDS), NEW)[0]
        else:
            far = scale
        assert row["scale"] == far
        edited = convex.edited({name: far * d for name, d in delta.items()})
        same(row, by_hand(convex, edited.model, IDS, NEW, {0, 1, 2}))
        assert torch.equal(found.studies[row["name"]].outputs(), edited.outputs())
    assert (found.removed, found.relabelled, found.gone) == (4, 2, ())


def test_a_class_that_goes_takes_its_test_images_along(convex):
    own = (convex.train.labels == 1).nonzero().flatten()
    found = compare_edits(convex, {"mine": LastLayer()}, remove=own)
    delta = LastLayer().fit(convex).parameter_change(remove=own)
    step = trusted_step(convex, delta, data_change(convex.train, 3, remove=own))
    edited = convex.edited({name: step * d for name, d in delta.items()})
    same(found.table.to_dict("records")[1], by_hand(convex, edited.model, own.tolist(), {}, {0, 2}))
    assert found.gone == (convex.class_names[1],)
    assert f"called {convex.class_names[1]} do not count" in found.sentences()[0]
    only = convex.replaced(test=convex.test.subset((convex.test.labels == 1).nonzero().flatten()))
    with pytest.raises(InvalidInput, match="no test image has a class that is left"):
        compare_edits(only, [LastLayer()], remove=own)


def test_a_training_without_them_stands_beside(study, tmp_path):
    store = ic.store.Store(tmp_path)
    found = compare_edits(study, [LastLayer()], remove=IDS[:2], relabel=NEW, seeds=(3, 5), store=store)
    labels = study.train.labels.clone()
    labels[list(NEW)] = torch.tensor(list(NEW.values()))
    after = study.train.with_labels(labels).without(IDS[:2])
    alone = ic.applications.retrain(study, after, seeds=(3, 5))
    row = found.table.to_dict("records")[-1]
    assert row["name"] == "trained again"
    assert row["test_accuracy"] == pytest.approx(sum(alone.after) / 2)
    again = found.studies["trained again"]
    assert len(again.train) == len(study.train) - 2
    assert torch.equal(again.outputs(), alone.study.outputs())
    said = again.replaced(train=study.train).predictions("train")
    done = [bool(said[i] != study.train.labels[i]) for i in IDS[:2]] + [bool(said[i] == k) for i, k in NEW.items()]
    assert row["done"] == sum(done) / 4
    assert row["seconds"] > 0
    kept = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    once_more = compare_edits(study, [LastLayer()], remove=IDS[:2], relabel=NEW, seeds=(3, 5), store=store)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == kept
    assert once_more.table.drop(columns="seconds").equals(found.table.drop(columns="seconds"))


def test_a_fitted_estimator_is_not_fitted_again(study, monkeypatch):
    fitted = LastLayer().fit(study)
    monkeypatch.setattr(LastLayer, "_fit", lambda *_: pytest.fail("fitted again"))
    assert len(compare_edits(study, [fitted], remove=[3, 17]).table) == 2


def test_an_estimator_that_scales_its_edits_is_left_to_it(convex):
    gif = GIF(scale=16.0, ratio=1.0)
    for scale in ("trusted", "validation"):
        found = compare_edits(convex, [gif], remove=IDS, scale=scale)
        assert found.table["scale"].tolist()[1] == 1
        expected = convex.edited(GIF(scale=16.0, ratio=1.0).fit(convex).parameter_change(remove=IDS))
        assert torch.equal(found.studies["gif"].outputs(), expected.outputs())


@pytest.mark.parametrize(
    ("given", "asked", "error", "words"),
    [
        ([LastLayer()], {}, InvalidInput, "remove"),
        ([LastLayer()], {"remove": [99]}, InvalidInput, "99"),
        ([LastLayer()], {"remove": [1], "scale": "best"}, InvalidInput, "choose one of trusted, validation"),
        ({"no edit": LastLayer()}, {"remove": [1]}, InvalidInput, "that of a control"),
        ([LastLayer(), LastLayer(damping=0.5)], {"remove": [1]}, InvalidInput, "names of your own"),
        ([ic.estimators.Loss()], {"remove": [1]}, NotSupported, "parameter change|parameter_change"),
    ],
)
def test_what_makes_no_sense_is_refused(study, given, asked, error, words):
    with pytest.raises(error, match=words):
        compare_edits(study, given, **asked)


def test_it_shows_itself(convex):
    found = compare_edits(convex, {"<b>": LastLayer()}, remove=IDS)
    assert repr(found) == "Edits(no edit, <b>; 4 left out, 0 relabelled)"
    page = found._repr_html_()
    assert "4 training images left out." in page
    assert "<b>" not in page.replace("&lt;b&gt;", "")
    figure = found.figure()
    assert [list(trace.x) for trace in figure.data] == [found.table[c].tolist() for c in ("done", "test_accuracy")]
    assert all(list(trace.y) == [ic.figures.as_text(name) for name in ("no edit", "<b>")] for trace in figure.data)
    assert ic.figures.edits(found.table).to_dict() == figure.to_dict()
