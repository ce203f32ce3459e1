"""Saved estimators: what a file may hold, and what is refused. That scores survive is checked for every estimator."""

from __future__ import annotations

import json

import pytest
import torch

import influence_core as ic
from influence_core.errors import InvalidInput, NotFitted, StaleResult
from influence_core.estimators import FVM, RandProj, TracIn
from influence_core.models import load_tensors, read_facts, save_tensors
from tests.helpers import study


@pytest.fixture(scope="module")
def small():
    return study()


def rewritten(path, **changes):
    """The file with some of its facts changed."""
    facts = read_facts(path, "estimator") | changes
    save_tensors(path, load_tensors(path), {"estimator": json.dumps(facts)})
    return path


def test_checkpoints_and_weights_are_not_written_twice(small, tmp_path):
    TracIn(last=2).fit(small).save(tmp_path / "tracin.safetensors")
    assert load_tensors(tmp_path / "tracin.safetensors") == {}
    loaded = TracIn.load(tmp_path / "tracin.safetensors", small)
    assert loaded.checkpoints_ == list(small.trajectory[-2:])
    assert loaded.last == 2


def test_a_tuned_model_is_written(small, tmp_path):
    fitted = FVM(steps=5, batch_size=5).fit(small)
    fitted.save(tmp_path / "fvm.safetensors")
    loaded = ic.estimators.Estimator.load(tmp_path / "fvm.safetensors", small)
    assert isinstance(loaded, FVM)
    assert torch.equal(loaded.model_[4].weight, fitted.model_[4].weight)
    assert not torch.equal(loaded.model_[4].weight, small.model[4].weight)
    assert loaded.influence().meta["fit_seconds"] == fitted.fit_cost_.seconds


def test_refusals(small, tmp_path):
    path = tmp_path / "randproj.safetensors"
    with pytest.raises(NotFitted, match=r"fit first: RandProj\(...\).fit\(study\).save"):
        RandProj().save(path)
    fitted = RandProj(dim=8).fit(small)
    fitted.save(path)
    with pytest.raises(StaleResult, match="holds a RandProj that was fitted on another study"):
        RandProj.load(path, small.replaced(weight_decay=0.5))
    with pytest.raises(InvalidInput, match="holds the estimator 'randproj', not 'tracin'"):
        TracIn.load(path, small)
    with pytest.raises(InvalidInput, match="there is no file"):
        RandProj.load(tmp_path / "none.safetensors", small)
    fitted.influence().save(tmp_path / "scores.safetensors")
    with pytest.raises(InvalidInput, match="holds no estimator"):
        RandProj.load(tmp_path / "scores.safetensors", small)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "randprog"}, "'randprog', not 'randproj'"),
        ({"parameters": {"width": 3}}, "parameter 'width', which RandProj has not"),
        ({"parameters": {"dim": 1}}, "dim is 1"),
        ({"learned": {"features_": {"tensor": "gone"}}}, "is not what Estimator.save of this version writes"),
        ({"learned": {"features_": {"unknown": 1}}}, "is not what Estimator.save of this version writes"),
        ({"learned": {"x_": {"object": "os:system", "state": {}}}}, "asks for os:system"),
        ({"learned": {"x_": {"object": "influence_core.study:Nothing", "state": {}}}}, "is not what Estimator.save"),
        ({"learned": {"x_": {"object": "influence_core.losses:cross_entropy", "state": {}}}}, "which is no class"),
    ],
)
def test_files_that_were_tampered_with(small, tmp_path, changes, message):
    path = tmp_path / "randproj.safetensors"
    RandProj(dim=8).fit(small).save(path)
    with pytest.raises(InvalidInput, match=message):
        RandProj.load(rewritten(path, **changes), small)


def test_values_of_all_kinds_survive(small, tmp_path):
    fitted = RandProj(dim=8).fit(small)
    kinds = {
        "nested": {"a/b": torch.ones(2), "a": {"b": torch.zeros(3)}, 4: (1, "x", None)},
        "names": frozenset({"p", "q"}),
        "type": torch.float16,
        "place": torch.device("cpu"),
        "again": small,
        "data": small.validation,
        "how": small.loss,
        "cover": ic.Coverage(0.5, 0.25),
        "limits": [float("inf"), True, -3],
    }
    fitted.kinds_ = kinds
    fitted.save(tmp_path / "kinds.safetensors")
    found = RandProj.load(tmp_path / "kinds.safetensors", small).kinds_
    assert torch.equal(found["nested"].pop("a/b"), torch.ones(2))
    assert torch.equal(found["nested"].pop("a")["b"], torch.zeros(3))
    assert found["nested"] == {4: (1, "x", None)}
    for name in ("again", "data", "how"):
        assert found[name] is kinds[name]
    for name in ("names", "type", "place", "cover", "limits"):
        assert found[name] == kinds[name]
