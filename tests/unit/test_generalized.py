"""GIF, FIF and PIF: hyper-parameters, refusals, and masks that are saved."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch

import influence_core as ic
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators import FIF, GIF, PIF, Estimator
from influence_core.estimators.edits.selectors import Masks, choose
from tests.helpers import study

methods = pytest.mark.parametrize("make", [GIF, FIF, PIF], ids=["gif", "fif", "pif"])


def masks():
    weight = torch.zeros(3, 48, dtype=torch.bool)
    weight[1, ::2] = True
    return {"4.weight": weight}


@methods
def test_masks_are_a_hyper_parameter(make, tmp_path):
    given = masks()
    estimator = make(selector=given, scale=1.0)
    given["4.weight"].fill_(True)  # what the caller does later is the caller's
    assert estimator.get_params()["selector"] == masks()
    assert estimator.get_params() == make(selector=masks(), scale=1.0).get_params()
    assert estimator.get_params() != make(selector={"4.bias": torch.ones(3, dtype=torch.bool)}).get_params()
    assert repr(estimator.selector) == "Masks(4.weight: 24 of 144)"
    made = study()
    change = estimator.fit(made).parameter_change([0, 3])
    assert (change["4.weight"] != 0).equal(masks()["4.weight"])
    estimator.save(tmp_path / "edit.safetensors")
    for loaded in (cls.load(tmp_path / "edit.safetensors", made) for cls in (make, Estimator)):
        assert loaded.get_params() == estimator.get_params()
        assert loaded._facts() == estimator._facts()
        again = loaded.parameter_change([0, 3])
        assert torch.allclose(again["4.weight"], change["4.weight"], rtol=1e-10, atol=1e-14)
    ic.testing.check_estimator(lambda: make(selector=masks(), scale=1.0), only="save_and_load")


def test_masks():
    one = Masks(masks())
    assert one == Masks(masks())
    assert hash(one) == hash(Masks(masks()))
    assert one == masks()
    other = masks()
    other["4.weight"][0, 0] = True
    assert one != other
    assert one != {"4.weight": 3}
    assert one != 5
    with pytest.raises(InvalidInput, match=r"mask of 'w' is torch.float32; expected a tensor of torch.bool"):
        Masks({"w": torch.ones(2)})
    with pytest.raises(InvalidInput, match="is list"):
        Masks({"w": [True]})  # type: ignore[dict-item]
    with pytest.raises(InvalidInput, match="choose no parameter"):
        Masks({"w": torch.zeros(2, dtype=torch.bool)})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"selector": "best"}, "choose 'top_outputs', 'top_gradients', 'threshold', 'random' or Mapping"),
        ({"ratio": 0.0}, "above 0 and at most 1"),
        ({"ratio": 1.5}, "above 0 and at most 1"),
        ({"solver": "exact"}, "choose 'least_squares' or 'neumann'"),
        ({"scale": "test"}, "choose 'validation' or a number"),
        ({"scale": 0.0}, "above 0"),
        ({"scale": float("inf")}, "above 0"),
        ({"damping": -1.0}, "0 or more"),
        ({"damping": float("nan")}, "0 or more"),
        ({"tolerance": -1.0}, "tolerance of 0"),
        ({"max_iterations": 0}, "at least one iteration"),
        ({"step": 0.0}, "a step above 0"),
    ],
)
def test_hyper_parameters_are_checked(parameters, message):
    with pytest.raises(InvalidInput, match=message):
        GIF(**parameters)


def test_masks_that_do_not_fit():
    made = study()
    with pytest.raises(InvalidInput, match="not a parameter of the model"):
        GIF(selector={"9.weight": torch.ones(2, dtype=torch.bool)}).fit(made)
    with pytest.raises(InvalidInput, match=r"expected \(3, 48\)"):
        GIF(selector={"4.weight": torch.ones(2, dtype=torch.bool)}).fit(made)


@methods
def test_refusals(make):
    made = study()
    with pytest.raises(NotSupported, match=r"needs a validation set"):
        make().fit(made.replaced(validation=None))
    fitted = make(scale=1.0).fit(made.replaced(validation=None))
    assert fitted.parameter_change([0])
    for method in ("influence", "self_influence", "mislabel_scores", "label_influence"):
        with pytest.raises(NotSupported, match="whole group at once"):
            getattr(fitted, method)()
    with pytest.raises(InvalidInput, match="all 24 training images"):
        fitted.parameter_change(range(24))
    with pytest.raises(InvalidInput, match="less than one in every layer"):
        make(scale=1.0, ratio=1e-3).fit(made).parameter_change([0])
    only = made.replaced(validation=made.validation.subset((made.validation.labels == 2).nonzero().flatten()))
    with pytest.raises(InvalidInput, match="no validation image has a label that is left"):
        make().fit(only).parameter_change((made.train.labels == 2).nonzero().flatten())


@pytest.mark.parametrize("known", [False, True], ids=["forgotten before", "known before"])
def test_an_edit_that_harms_is_said(known, monkeypatch):
    made = study(epochs=12)
    right = made.train.labels == made.predictions("train")
    removed = (right == known).nonzero().flatten()[:2]
    assert len(removed) == 2
    estimator = PIF(ratio=1.0).fit(made)
    solved = PIF._solved

    def far(*parts):  # even a sixteenth of the step leaves nothing of the model
        found = solved(*parts)
        return dataclasses.replace(found, x=1e6 * found.x)

    monkeypatch.setattr(PIF, "_solved", far)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        facts = estimator.parameter_change(removed).meta
    assert (facts["f1"] < facts["f1_without_edit"]) is not known  # what is forgotten already cannot be forgotten more
    said = [str(w.message) for w in seen if "no edit does better" in str(w.message)]
    assert len(said) == (not known)
    for message in said:
        assert f"{facts['f1']:.3f}, without an edit {facts['f1_without_edit']:.3f}" in message


def test_the_series_says_when_it_gives_up():
    from influence_core.curvature import Columns, solve_series

    everything = torch.ones(2, dtype=torch.bool)
    with pytest.raises(InvalidInput, match="diverges with M up to"):
        solve_series(Columns(lambda v: 1e9 * v, everything), torch.ones(2), step=2e5)


def test_nothing_to_solve():
    from influence_core.curvature import Columns, solve_lsqr, solve_series

    block = Columns(lambda v: v, torch.ones(2, dtype=torch.bool))
    for solve in (solve_lsqr, solve_series):
        found = solve(block, torch.zeros(2))
        assert found.converged
        assert found.residual == 0
        assert not found.x.any()


@pytest.mark.parametrize("selector", ["top_outputs", "threshold"])
def test_outputs_that_overflow_are_refused(selector):
    made = study()
    data = made.train.subset([0, 1])
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).double()
    with torch.no_grad():
        model[1].weight.fill_(1e308)
    with pytest.raises(InvalidInput, match=r"layer '1' have outputs or gradients that are NaN or infinite"):
        choose(selector, 0.5, model, made.loss, data)
