"""Saved estimators: what a file may hold, and what is refused. That scores survive is checked for every estimator."""

from __future__ import annotations

import gc
import json
import re
from dataclasses import dataclass
from typing import ClassVar

import pytest
import safetensors.torch
import torch

import influence_core as ic
from influence_core.errors import InvalidInput, NotFitted, NotSupported, StaleResult
from influence_core.estimators import FVM, RandProj, TracIn
from influence_core.estimators.influence_functions.base import InfluenceFunction
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


class Trap:
    """What an attacker would like to have made; no dataclass, and on no list."""

    def __del__(self) -> None:
        SPRUNG.append("deleted")


@dataclass
class TrapToo:
    """A dataclass, but one that no estimator declares."""

    command: str = ""

    def __post_init__(self) -> None:
        SPRUNG.append(self.command)


SPRUNG: list[str] = []
LEARNT = {"features_": {"tensor": "features_"}}

TAMPERED = {
    "another estimator": ({"name": "randprog"}, "'randprog', not 'randproj'"),
    "a name that is no text": ({"name": ["randproj"]}, "not 'randproj'"),
    "a parameter that there is not": ({"parameters": {"width": 3}}, "parameter 'width', which RandProj has not"),
    "a parameter out of range": ({"parameters": {"dim": 1}}, "dim is 1"),
    "a parameter that is an object": (
        {"parameters": {"dim": {"object": "subprocess:Popen", "state": {}}}},
        "asks for subprocess:Popen, which is none of Ascent",
    ),
    "a tensor that is not there": ({"learned": {"features_": {"tensor": "gone"}}}, "is not what Estimator.save"),
    "a kind that there is not": ({"learned": {"features_": {"unknown": 1}}}, "a value of the kind unknown"),
    "two kinds at once": ({"learned": {"features_": {"tensor": "features_", "tuple": []}}}, "of the kind"),
    "a function": ({"learned": {"features_": {"object": "os:system", "state": {}}}}, "asks for os:system"),
    "a class of this package": (
        {"learned": {"features_": {"object": "influence_core.study:Study", "state": {}}}},
        "asks for influence_core.study:Study",
    ),
    "a walk over attributes": (
        {"learned": {"features_": {"object": "influence_core.progress:warnings.sys.modules", "state": {}}}},
        "asks for influence_core.progress:warnings",
    ),
    "a class with a destructor": (
        {"learned": {"features_": {"object": "tests.unit.test_saving:Trap", "state": {}}}},
        "asks for tests.unit.test_saving:Trap",
    ),
    "the same by its bare name": ({"learned": {"features_": {"object": "Trap", "state": {}}}}, "asks for Trap"),
    "a dataclass nobody declared": (
        {"learned": {"features_": {"object": "TrapToo", "state": {"command": "sprung"}}}},
        "asks for TrapToo",
    ),
    "fields that a class has not": (
        {"learned": {"features_": {"object": "Coverage", "state": {"__class__": 1}}}},
        "a Coverage with __class__",
    ),
    "another class's private dict": (
        {"learned": {"features_": {"object": "Coverage", "state": {"__dict__": {"dict": []}}}}},
        "a Coverage with __dict__",
    ),
    "an attribute of torch for a type": ({"learned": {"features_": {"dtype": "load"}}}, "number type 'load'"),
    "a dotted attribute for a type": ({"learned": {"features_": {"dtype": "hub.load"}}}, "number type 'hub.load'"),
    "a type that is no text": ({"learned": {"features_": {"dtype": ["float32"]}}}, "is not what Estimator.save"),
    "a device that there is not": ({"learned": {"features_": {"device": "file:///etc/passwd"}}}, "the device"),
    "a part that a study has not": ({"learned": {"features_": {"study": "__dict__"}}}, "the study's '__dict__'"),
    "a method of the study": ({"learned": {"features_": {"study": "save"}}}, "the study's 'save'"),
    "a checkpoint that there is not": ({"learned": {"features_": {"checkpoint": 99}}}, "checkpoint 99"),
    "a checkpoint from behind": ({"learned": {"features_": {"checkpoint": -1}}}, "checkpoint -1"),
    "a replaced method": ({"learned": {"_influence": {"study": "loss"}}}, "holds '_influence', which RandProj"),
    "a replaced public method": ({"learned": {"influence": {"study": "loss"}}}, "holds 'influence', which RandProj"),
    "a special method": ({"learned": {"__class__": {"study": ""}}}, "holds '__class__', which RandProj"),
    "a name with an underscore": ({"learned": {**LEARNT, "other_": 1}}, "holds 'other_', which RandProj"),
    "the study": ({"learned": {"study_": {"study": ""}}}, "holds 'study_', which RandProj"),
    "values as a list": ({"learned": []}, "is not what Estimator.save"),
    "a cost that is text": ({"cost": ["a", "b"]}, "is not what Estimator.save"),
    "a thousand brackets": ({"learned": {"features_": json.loads("[" * 400 + "]" * 400)}}, None),
}


@pytest.mark.parametrize("way", TAMPERED)
def test_files_that_were_tampered_with(small, tmp_path, way):
    changes, message = TAMPERED[way]
    path = tmp_path / "randproj.safetensors"
    RandProj(dim=8).fit(small).save(path)
    SPRUNG.clear()
    if message is None:
        RandProj.load(rewritten(path, **changes), small)  # a value of the wrong kind, but no code
    else:
        with pytest.raises(InvalidInput, match=re.escape(message)):
            RandProj.load(rewritten(path, **changes), small)
    gc.collect()
    assert SPRUNG == []
    assert RandProj(dim=8).fit(small).influence().values.shape == (24, 9)  # the class is what it was


def test_only_dataclasses_may_be_learned(small, tmp_path):
    class Greedy(RandProj):
        learned_classes = (Trap,)

    with pytest.raises(TypeError, match="is no dataclass"):
        Greedy(dim=8).fit(small).save(tmp_path / "greedy.safetensors")


def test_what_is_learned_has_to_be_declared(small, tmp_path):
    fitted = RandProj(dim=8).fit(small)
    fitted.more_ = 3
    with pytest.raises(NotSupported, match="learned 'more_', which its class does not declare"):
        fitted.save(tmp_path / "more.safetensors")
    assert not (tmp_path / "more.safetensors").exists()


def test_code_is_not_written(small, tmp_path):
    fitted = RandProj(dim=8).fit(small)
    for value in (print, Trap, object(), lambda: None, TrapToo()):
        fitted.features_ = value
        with pytest.raises(NotSupported, match="its attribute features_ is a"):
            fitted.save(tmp_path / "code.safetensors")


class Turned(RandProj):
    """A variant without a name of its own."""

    def _self_influence(self):
        return -super()._self_influence()


def test_a_variant_is_not_taken_for_what_it_derives_from(small, tmp_path):
    path = tmp_path / "turned.st"  # what it is does not hang on the name of the file
    fitted = Turned(dim=8).fit(small)
    fitted.save(path)
    assert torch.equal(Turned.load(path, small)._self_influence(), fitted._self_influence())
    for cls in (RandProj, ic.estimators.Estimator):
        with pytest.raises(InvalidInput, match=r"holds a .*Turned, and 'randproj' is a .*RandProj here"):
            cls.load(path, small)


def test_what_another_version_of_the_method_learned_is_stale(small, tmp_path, monkeypatch):
    path = tmp_path / "e.safetensors"
    RandProj(dim=8).fit(small).save(path)
    RandProj.load(path, small)
    monkeypatch.setattr(RandProj, "version", 2)
    with pytest.raises(StaleResult, match=r"holds version 1 of RandProj, .* not those of version 2 here: fit it again"):
        RandProj.load(path, small)


def test_a_family_loads_its_own(small, tmp_path):
    class Family(TracIn):
        """Nothing of it is listed."""

    path = tmp_path / "randproj.safetensors"
    RandProj(dim=8).fit(small).save(path)
    with pytest.raises(InvalidInput, match="'randproj', not 'tracin'"):
        Family.load(path, small)
    with pytest.raises(InvalidInput, match="RandProj, which is no InfluenceFunction"):
        InfluenceFunction.load(path, small)


def test_facts_nested_beyond_reason(small, tmp_path):
    path = tmp_path / "randproj.safetensors"
    RandProj(dim=8).fit(small).save(path)
    save_tensors(path, load_tensors(path), {"estimator": "[" * 200_000 + "]" * 200_000})
    with pytest.raises(InvalidInput, match="readable facts"):
        RandProj.load(path, small)


@dataclass
class Ridge(RandProj):
    """A hyper-parameter may end in an underscore, as a word of Python's needs to."""

    lambda_: float = 1.0

    def _fit(self, study):
        super()._fit(study)
        self.features_ = self.lambda_ * self.features_


def test_a_hyper_parameter_that_ends_in_an_underscore_is_no_memory(small, tmp_path):
    one, five = (Ridge(dim=8, lambda_=value).fit(small) for value in (1.0, 5.0))
    assert torch.allclose(five.features_, 5 * one.features_)
    five.save(tmp_path / "ridge.safetensors")
    assert Ridge.load(tmp_path / "ridge.safetensors", small).lambda_ == 5.0


class Keeps(RandProj):
    """Learns one value of every kind."""

    learned: ClassVar[tuple[str, ...]] = ("kinds_",)


def test_values_of_all_kinds_survive(small, tmp_path):
    fitted = Keeps(dim=8).fit(small)
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
    found = Keeps.load(tmp_path / "kinds.safetensors", small).kinds_
    assert torch.equal(found["nested"].pop("a/b"), torch.ones(2))
    assert torch.equal(found["nested"].pop("a")["b"], torch.zeros(3))
    assert found["nested"] == {4: (1, "x", None)}
    for name in ("again", "data", "how"):
        assert found[name] is kinds[name]
    for name in ("names", "type", "place", "cover", "limits"):
        assert found[name] == kinds[name]


def test_a_file_without_a_checksum_or_with_a_wrong_one(small, tmp_path):
    path = tmp_path / "randproj.safetensors"
    RandProj(dim=8).fit(small).save(path)
    tensors, facts = load_tensors(path), read_facts(path, "estimator")
    safetensors.torch.save_file(tensors, path, {"estimator": json.dumps(facts)})
    with pytest.raises(InvalidInput, match=r"randproj\.safetensors carries no checksum.*make it anew"):
        RandProj.load(path, small)
    RandProj(dim=8).fit(small).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InvalidInput, match=r"randproj\.safetensors was changed or damaged"):
        RandProj.load(path, small)
