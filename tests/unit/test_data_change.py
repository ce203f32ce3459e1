"""What may be asked of ``parameter_change``, what is refused, and what its answer says of itself."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest
import torch

import influence_core as ic
from influence_core.errors import InfluenceError, InvalidInput, NotSupported
from influence_core.estimators import EKFAC, GIF, SAMHIF, ConjugateGradient
from influence_core.estimators.base import all_estimators
from influence_core.estimators.changes import data_change
from influence_core.estimators.edits.scale import SCALES
from tests.estimator_settings import own_estimators, quick
from tests.helpers import images, study

NAMES = ["cat", "dog", "owl"]
small = functools.cache(study)


def named():
    return images(24, seed=1, noise=0.25, class_names=NAMES)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, r"nothing changes: give remove="),
        ({"remove": []}, r"nothing changes: give remove="),
        ({"relabel": {}, "weight": {}}, r"nothing changes: give remove="),
        ({"weight": {3: 1}}, "every new weight is 1"),
        ({"relabel": {3: "given"}}, "every new label is the given one"),
        ({"remove": [24]}, "no training image 24; ids go from 0 to 23"),
        ({"remove": [-1]}, "no training image -1"),
        ({"remove": [3, 5, 3]}, "twice"),
        ({"remove": [1.5]}, "give integers"),
        ({"remove": "cat"}, "give integers"),
        ({"remove": torch.ones(24, dtype=torch.bool)}, r"a mask; give integers .*nonzero"),
        ({"relabel": {24: 1}}, "no training image 24"),
        ({"relabel": {-1: 1}}, "no training image -1"),
        ({"relabel": {"3": 1}}, r"relabel names the training image '3'; give integers such as relabel=\{3: 1\}"),
        ({"relabel": {True: 1}}, "relabel names the training image True"),
        ({"relabel": {3: 3}}, "new label 3 is no class; labels go from 0 to 2"),
        ({"relabel": {3: -1}}, "new label -1 is no class"),
        ({"relabel": {3: 1.0}}, "new label 1.0 is no class"),
        ({"relabel": {3: True}}, "new label True is no class"),
        ({"relabel": {3: None}}, "new label None is no class"),
        ({"relabel": {3: "cow"}}, "no class 'cow'; there are cat, dog, owl"),
        ({"relabel": [3, 4]}, r"relabel is \[3, 4\]; give a dict"),
        ({"relabel": {torch.tensor(3): 1, torch.tensor(3): 2}}, "relabel names the training image 3 twice"),
        ({"weight": {24: 0.5}}, "no training image 24"),
        ({"weight": {0.5: 3}}, "weight names the training image 0.5"),
        ({"weight": {3: -0.1}}, "weight of training image 3 is -0.1; expected a number of 0 or more"),
        ({"weight": {3: float("nan")}}, "weight of training image 3 is nan"),
        ({"weight": {3: float("inf")}}, "weight of training image 3 is inf"),
        ({"weight": {3: "2"}}, "weight of training image 3 is '2'"),
        ({"weight": {3: True}}, "weight of training image 3 is True"),
        ({"weight": [0.5]}, "give a dict"),
        ({"remove": [3], "relabel": {3: 1}}, "image 3 is to be removed and to get a new label: choose one"),
        ({"remove": 3, "weight": {3: 0.0}}, "image 3 is to be removed and to get a new weight: choose one"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_refused(asked, message):
    data = named()
    if asked.get("relabel") == {3: "given"}:
        asked = {"relabel": {3: int(data.labels[3])}}
    estimator = EKFAC().fit(small().replaced(train=data))
    with pytest.raises(InvalidInput, match=message):
        estimator.parameter_change(**asked)


def test_names_are_refused_where_there_are_none():
    with pytest.raises(InvalidInput, match="no class 'cat'; there are numbers alone"):
        data_change(images(24), 3, relabel={3: "cat"})


def test_what_is_asked_for():
    data = named()
    new = {i: (int(data.labels[i]) + 1) % 3 for i in (5, 9, 13, 17)}
    change = data_change(
        data,
        3,
        remove=torch.tensor([7, 2]),
        relabel={5: NAMES[new[5]], np.int64(9): np.int64(new[9]), torch.tensor(13): torch.tensor(new[13]), 17: new[17]},
        weight={9: 2, torch.tensor(11): torch.tensor(0.25), 13: 0.0, 20: np.float32(0.0), 21: 1.0},
    )
    assert change.ids.tolist() == [2, 5, 7, 9, 11, 13, 17, 20]
    assert change.weights.tolist() == [0, 1, 0, 2, 0.25, 0, 1, 0]
    assert change.removed.tolist() == [True, False, True, False, False, True, False, True]
    assert change.ids[change.relabelled].tolist() == [5, 9, 17]
    assert change.labels[change.relabelled].tolist() == [new[5], new[9], new[17]]
    assert change.ids[change.reweighted].tolist() == [9, 11]
    assert torch.equal(change.given, data.labels[change.ids])
    ids, labels, factors = change.terms()
    assert ids.tolist() == [*change.ids.tolist(), 5, 9, 17]
    assert torch.equal(labels[:8], change.given)
    assert labels[8:].tolist() == [new[5], new[9], new[17]]
    assert factors.tolist() == [-1, -1, -1, -1, -0.75, -1, -1, -1, 1, 2, 1]
    left, after, weights = change.changed_loss(data)
    assert left.tolist() == [i for i in range(24) if i not in (2, 7, 13, 20)]
    assert {i: int(y) for i, y in zip(left.tolist(), after, strict=True) if int(y) != int(data.labels[i])} == {
        i: new[i] for i in (5, 9, 17)
    }
    assert {i: w for i, w in zip(left.tolist(), weights.tolist(), strict=True) if w != 1} == {9: 2.0, 11: 0.25}
    one = data_change(data, 3, remove=[], relabel={5: new[5]})
    assert one.ids.tolist() == [5]


@pytest.mark.parametrize("cls", own_estimators(), ids=lambda cls: cls.name)
def test_those_that_cannot_name_those_that_can(cls):
    """Whatever the change, fitted or not."""
    if "parameter_change" in cls.gives():
        return
    able = [c.__name__ for c in all_estimators() if "parameter_change" in c.gives()]
    for asked in ({"remove": [0]}, {"relabel": {0: 1}}, {"weight": {0: 2.0}}):
        with pytest.raises(NotSupported, match="gives no parameter change") as caught:
            quick(cls)().parameter_change(**asked)
        assert str(caught.value).endswith(f"do: {', '.join(able)}.")


@pytest.mark.parametrize(
    "cls", [c for c in own_estimators() if "parameter_change" in c.gives()], ids=lambda cls: cls.name
)
def test_the_answer_says_what_it_is(cls):
    made = small()
    estimator = quick(cls)()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = made.train.labels
        change = estimator.fit(made).parameter_change(
            remove=[0, 1, 2],
            relabel={i: (int(labels[i]) + 1) % 3 for i in (5, 6)},
            weight={6: 3.0, 8: 0.5, 9: 2.0, 10: 0.0},
        )
    meta = change.meta
    assert (meta["estimator"], meta["study"]) == (cls.name, made.fingerprint)
    assert meta["parameters"] == estimator.get_params()
    assert [meta[k] for k in ("removed", "relabelled", "reweighted")] == [4, 2, 3]
    assert meta["seconds"] > 0
    assert "residual" in meta
    if "changed" in meta:
        assert 0 < meta["changed"] <= meta["changeable"] == sum(p.numel() for p in made.model.parameters())
        assert isinstance(meta["scale"], float)
    if hasattr(estimator, "tolerance"):
        assert 0 <= meta["residual"] < 1
        assert {"iterations", "converged"} <= meta.keys()
    made.edited(change)


@pytest.mark.parametrize("name", ["gif", "fif", "pif"])
def test_new_weights_alone_need_a_number_for_the_scale(name, monkeypatch):
    """Said before the work."""
    cls = type(ic.estimators.get(name))
    edit = ic.estimators.get(name).fit(small())
    monkeypatch.setattr(cls, "_solved", lambda *_: pytest.fail("solved first"))
    with pytest.raises(
        InvalidInput, match=rf"new weights alone forget nothing: give a number, {cls.__name__}\(scale=1"
    ):
        edit.parameter_change(weight={3: 2.0, 4: 0.5})
    monkeypatch.undo()
    assert ic.estimators.get(name, scale=1.0).fit(small()).parameter_change(weight={3: 2.0}).meta["scale"] == 1.0


def test_a_weight_of_nothing_is_forgotten():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, two = (GIF().fit(small()).parameter_change(**a) for a in ({"remove": [3]}, {"weight": {3: 0.0}}))
    for fact in ("scale", "f1", "f1_without_edit", "removed", "changed"):
        assert one.meta[fact] == two.meta[fact]


def test_all_weights_of_nothing_are_refused():
    edit = GIF(scale=1.0).fit(small())
    with pytest.raises(InvalidInput, match="all 24 training images"):
        edit.parameter_change(weight=dict.fromkeys(range(24), 0.0))


@pytest.mark.parametrize("emptied", [False, True], ids=["some", "a class"])
def test_the_scale_of_new_labels_is_searched_literally(emptied):
    """An image is dealt with when its new label is predicted; a class without images need not be known any more."""
    made = study(epochs=12)
    labels = made.train.labels
    ids = (labels == 2).nonzero().flatten().tolist() if emptied else [0, 1, 5, 8]
    new = {i: (int(labels[i]) + 1) % 3 for i in ids}
    asked = {"remove": [3], "relabel": new, "weight": {4: 2.0}}
    new.pop(3, None)
    raw = GIF(ratio=0.5, scale=1.0).fit(made).parameter_change(**asked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        meta = GIF(ratio=0.5).fit(made).parameter_change(**asked).meta
    inputs, clean = made.validation.batch(range(len(made.validation)))

    def judged(scale: float) -> float:
        model = made.edited({n: scale * c for n, c in raw.items()}).model
        done = [int(model(made.train.batch([3])[0]).argmax()) != int(labels[3])]
        done += [int(model(made.train.batch([i])[0]).argmax()) == label for i, label in new.items()]
        known = [int(p) == int(y) for p, y in zip(model(inputs).argmax(1), clean, strict=True) if not emptied or y != 2]
        share, accuracy = sum(done) / len(done), sum(known) / len(known)
        return 2 * share * accuracy / (share + accuracy) if share + accuracy else 0.0

    values = [judged(s) for s in SCALES]
    assert meta["scale"] == SCALES[values.index(max(values))]
    assert meta["f1"] == pytest.approx(max(values))
    assert meta["f1_without_edit"] == pytest.approx(judged(0.0))
    assert len(set(values)) > 2


def test_top_gradients_look_at_what_is_added():
    """Not at the old labels alone: the derivative of the new ones' loss counts, and weights are factors."""
    made = small()
    asked = {"remove": [1], "relabel": {4: (int(made.train.labels[4]) + 1) % 3}, "weight": {9: 4.0, 4: 2.0}}
    total = torch.zeros(3, dtype=torch.float64)
    change = data_change(made.train, 3, **asked)
    for i, label, factor in zip(*change.terms(), strict=True):
        outputs = made.model(made.train.batch([int(i)])[0]).detach()[0]
        total += factor * (outputs.softmax(0) - torch.nn.functional.one_hot(label, 3))
    edit = GIF(selector="top_gradients", ratio=0.34, scale=1.0).fit(made).parameter_change(**asked)
    units = (edit["4.weight"] != 0).sum(1)
    assert int(units.argmax()) == int(total.abs().argmax())  # a third of the last layer is one unit of three
    old = made.model(made.train.batch([1, 4, 9])[0]).softmax(1) - torch.nn.functional.one_hot(
        made.train.labels[[1, 4, 9]], 3
    )
    assert int(old.sum(0).abs().argmax()) != int(total.abs().argmax())


def test_a_solver_that_stops_early_says_so_in_the_answer():
    new = {3: (int(small().train.labels[3]) + 1) % 3}
    for cls, plain in ((ConjugateGradient, {"preconditioner": None}), (SAMHIF, {})):
        with pytest.warns(UserWarning, match="relative residual"):
            change = cls(damping=0.1, max_iterations=2, **plain).fit(small()).parameter_change(relabel=new)
        assert not change.meta["converged"]
        assert any("relative residual" in sentence for sentence in change.meta["warnings"])


def test_errors_are_the_packages_own():
    with pytest.raises(InfluenceError):
        EKFAC().fit(small()).parameter_change(remove={"a": 1})
