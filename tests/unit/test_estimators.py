"""What estimators refuse, and what else ``ic.testing`` does not ask of them (tests/unit/test_estimator_checks.py)."""

from __future__ import annotations

import copy
import dataclasses
import gc

import numpy as np
import pytest
import torch

import influence_core as ic
from influence_core.errors import InvalidInput, NotFitted, NotSupported
from influence_core.estimators import FVM, GEX, VM, GEXLinear, Laplace, TracIn
from influence_core.gradients import (
    check_model,
    inner_products,
    mean_squares,
    per_sample_gradients,
    squared_norms,
)
from influence_core.losses import cross_entropy
from influence_core.models import linear_in_weights
from influence_core.testing.tools import results, values
from tests.estimator_settings import own_estimators, quick
from tests.helpers import images, literal_gradients, net, study

MADE = {cls.name: quick(cls) for cls in own_estimators()}


@pytest.fixture(scope="module")
def small():
    return study()


@pytest.fixture(scope="module")
def fitted(small):
    return {name: make().fit(small) for name, make in MADE.items()}


@pytest.mark.parametrize("name", MADE)
def test_scores_belong_to_the_study(fitted, small, name):
    for method, scores in results(fitted[name]).items():
        assert scores.values.dtype == torch.float64, method
        assert scores.train is small.train
        assert scores.test is small.test
        assert scores.name == name
        assert scores.meta["seconds"] > 0
        assert name == "lastlayer" or scores.coverage == ic.Coverage(1.0, 1.0)


WEAK = {"gex", "gexlinear", "laplace", "vm", "fvm", "labelcontrast"}


@pytest.mark.parametrize("name", MADE)
def test_influence_says_how_far_it_is_true(fitted, name):
    """A network is not linear in its weights; and the methods whose influence is weak say so of that alone."""
    for scores in results(fitted[name]).values():
        said = " ".join(scores.caveats())
        sized = scores.scale == "nats" and scores.kind in ("influence", "self_influence")
        assert (scores.meta.get("linear") is False) == sized
        assert ("right only for models that are linear in their weights" in said) == sized
        weak = name in WEAK and scores.kind == "influence"
        assert ("Weak evidence: where models were retrained, its order followed them only a little." in said) == weak


def test_sizes_are_right_for_a_softmax_regression_and_for_nothing_below_it():
    convex = ic.testing.problems.convex_study()
    found = ic.estimators.LastLayer().fit(convex).influence([0])
    assert found.meta["linear"] is True
    assert found.caveats()[:2] == [
        "The numbers are in nats of loss.",
        "They are for a mean loss that keeps its divisor N.",
    ]
    inputs, layers = torch.rand(2, 3), (torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
    assert linear_in_weights(layers[0], inputs)
    two = torch.nn.Sequential(*layers)
    assert not linear_in_weights(two, inputs)
    layers[0].requires_grad_(False)
    assert linear_in_weights(two, inputs)
    layers[1].requires_grad_(False)
    assert not linear_in_weights(two, inputs)
    layers[0].requires_grad_(True)  # below a last layer that is frozen
    assert not linear_in_weights(two, inputs)
    assert not linear_in_weights(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh()), inputs)


@pytest.mark.parametrize(("name", "method"), [("tracin", "label_influence"), ("loss", "influence")])
def test_a_refusal_names_all_that_can_and_no_other(fitted, name, method):
    with pytest.raises(NotSupported) as caught:
        getattr(fitted[name], method)()
    named = set(str(caught.value).split("do: ")[1].removesuffix(".").split(", "))
    for other in fitted.values():
        assert (type(other).__name__ in named) == (method in other.gives())
    assert not isinstance(caught.value, InvalidInput)


def test_a_failed_fit_leaves_no_half_results(small):
    estimator = TracIn().fit(small)
    before, learned = estimator.influence([0]).values, set(vars(estimator))
    rateless = ic.training.Trajectory([dataclasses.replace(c, learning_rate=0.0) for c in small.trajectory])
    with pytest.raises(InvalidInput, match="learning rate above 0"):
        estimator.fit(small.replaced(trajectory=rateless))
    assert estimator.study_ is small  # as it was, for whoever asks it from another thread
    assert set(vars(estimator)) == learned
    assert torch.equal(estimator.influence([0]).values, before)
    fresh = TracIn()
    with pytest.raises(InvalidInput, match="learning rate above 0"):
        fresh.fit(small.replaced(trajectory=rateless))
    with pytest.raises(NotFitted):
        fresh.influence()


@pytest.mark.parametrize("name", ["gex", "fvm"])
def test_the_seed_matters(fitted, small, name):
    other = values(dataclasses.replace(MADE[name](), seed=1).fit(small))
    for method, expected in values(fitted[name]).items():
        assert not torch.allclose(other[method], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ids", [torch.tensor([7, 2], dtype=torch.uint8), np.array([7, 2]), (7, 2), range(7, 1, -5)])
def test_test_ids_of_any_kind(fitted, ids):
    expected = fitted["tracin"].influence([7, 2])
    part = fitted["tracin"].influence(test=ids)
    assert part.test_ids.tolist() == [7, 2]
    assert torch.equal(part.values, expected.values)


@pytest.mark.parametrize("one", [3, np.int64(3), torch.tensor(3)])
def test_one_test_id_is_one_column(fitted, one):
    assert torch.equal(fitted["tracin"].influence(one).values, fitted["tracin"].influence([3]).values)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 9], "no test image 9; ids go from 0 to 8"),
        ([-1], "no test image -1"),
        ([], "ids are none; give integers"),
        ([0.5], "float32 with 1 values; give integers"),
        (True, "test ids are a mask"),
        (torch.ones(9, dtype=torch.bool), r"a mask; give integers .*nonzero"),
        ("seven", "test ids are 'seven'; give integers"),
        ({1, 2}, "give integers"),
        ([1, [2, 3]], "give integers"),
    ],
)
def test_bad_test_ids(fitted, ids, message):
    with pytest.raises(InvalidInput, match=message):
        fitted["gex"].influence(ids)


@pytest.mark.parametrize(
    ("name", "lacking", "others"),
    [("tracin", "trajectory", ".*FVM, .*GEX"), ("fvm", "validation", ".*GEX, .*Loss, .*TracIn")],
)
def test_what_a_study_lacks_is_named(small, name, lacking, others):
    with pytest.raises(NotSupported, match=f"ic.Study.*{lacking}=.*Without it: {others}"):
        MADE[name]().fit(small.replaced(**{lacking: None}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TracIn(weights="rate"), "weights is 'rate'"),
        (lambda: TracIn(last=0), "last is 0"),
        (lambda: GEX(members=0), "members=0"),
        (lambda: GEX(chain=0), "chain=0"),
        (lambda: GEX(batch_size=1), "batch_size=1"),
        (lambda: GEX(epochs=0), "epochs=0"),
        (lambda: GEX(learning_rate=0), "learning_rate=0"),
        (lambda: GEX(refresh_batches=0), "refresh_batches is 0"),
        (lambda: GEX(loss_floor=-1), "loss_floor is -1"),
        (lambda: GEX(floor_sides="top"), "floor_sides is 'top'"),
        (lambda: GEX(schedule="linear"), "schedule is 'linear'"),
        (lambda: GEX(clip=0.0), "clip is 0.0"),
        (lambda: GEX(tune_on="test"), "tune_on is 'test'"),
        (lambda: GEX(detect_by="test"), "detect_by is 'test'"),
        (lambda: GEXLinear(members=0), "members=0"),
        (lambda: Laplace(structure="dense"), "structure is 'dense'"),
        (lambda: Laplace(curvature="fisher"), "curvature is 'fisher'"),
        (lambda: Laplace(curvature="hessian"), "structure='kfac' is of the Fisher matrix"),
        (lambda: Laplace(samples=0), "samples=0"),
        (lambda: Laplace(scale=0.0), "scale=0.0"),
        (lambda: Laplace(damping=-1.0), "damping is -1.0"),
        (lambda: Laplace(loss_floor=-1.0), "loss_floor is -1.0"),
        (lambda: FVM(steps=-1), "steps=-1"),
        (lambda: FVM(learning_rate=0), "learning_rate=0"),
        (lambda: FVM(damping=0), "damping is 0"),
        (lambda: FVM(rho=-0.1), "rho is -0.1"),
        (lambda: VM(batch_size=1), "batch_size=1"),
    ],
)
def test_hyper_parameters_out_of_range(make, message):
    with pytest.raises(InvalidInput, match=message):
        make()


def test_get():
    assert ic.estimators.get("FVM", rho=0.1) == FVM(rho=0.1)
    assert ic.estimators.get("gex", members=3).get_params()["members"] == 3
    with pytest.raises(InvalidInput, match=r"no estimator 'fwm'; choose one of .*fvm, gex, .*loss, .*tracin, .*vm"):
        ic.estimators.get("fwm")
    with pytest.raises(InvalidInput, match=r"FVM has no parameter 'roh'; it has steps, .*rho"):
        ic.estimators.get("fvm", roh=0.1)
    with pytest.raises(InvalidInput, match="Loss has no parameter 'x'; it has none"):
        ic.estimators.get("loss", x=1)


def test_available():
    table = ic.estimators.available().set_index("name")
    for name, make in MADE.items():
        assert table.loc[name, "gives"].split(", ") == make().gives()
        assert isinstance(ic.estimators.get(name), type(make()))
    assert ic.estimators.GEX.gives() == ["influence", "self_influence", "mislabel_scores"]
    assert ic.estimators.FVM.gives() == ["influence", "mislabel_scores", "label_influence"]
    assert ic.estimators.GIF.gives() == ["parameter_change"]
    assert ic.estimators.Loss.gives() == ["mislabel_scores"]
    assert table.loc["tracin", "needs"] == "checkpoint, trajectory"
    assert table.loc["fvm", "needs"] == "checkpoint, validation"
    assert table.loc["loss", "needs"] == "checkpoint"
    ours = table.loc[list(MADE), ["title", "paper", "cost"]]  # other tests may have registered some of their own
    assert (ours != "").all().all()


def test_a_third_partys_estimator(small):
    @dataclasses.dataclass
    class Constant(ic.estimators.Estimator):
        name = "constant_of_a_test"
        title = "Constant"
        paper = "none"
        value: float = 1.0

        def _fit(self, study):
            self.size_ = len(study.train)

        def _mislabel_scores(self):
            return torch.full((self.size_,), self.value)

    assert Constant.gives() == ["mislabel_scores"]
    assert ic.estimators.get("constant_of_a_test", value=2.0).fit(small).mislabel_scores().values.tolist() == [2.0] * 24
    broken = Constant(float("inf")).fit(small)
    with pytest.raises(InvalidInput, match="mislabel score of training image 0 is inf"):
        broken.mislabel_scores()
    del Constant, broken
    gc.collect()  # and it is no estimator any more, for the tests that follow


# --- the engine behind them, through its public functions only


@pytest.fixture(scope="module")
def pair():
    return net(), images(7, seed=1), images(4, seed=2)


def test_gradients_equal_batch_one_autograd(pair):
    model, left, right = pair
    one, two = literal_gradients(model, cross_entropy, left), literal_gradients(model, cross_entropy, right)
    stacked = per_sample_gradients(model, cross_entropy, left)
    names = [n for n, _ in model.named_parameters()]
    assert torch.allclose(torch.cat([stacked[n].flatten(1) for n in names], 1), one, atol=1e-12)
    assert torch.allclose(inner_products(model, cross_entropy, left, right), one @ two.T, atol=1e-12)
    vectors = per_sample_gradients(model, cross_entropy, right)
    assert torch.allclose(inner_products(model, cross_entropy, left, vectors), one @ two.T, atol=1e-12)
    assert torch.allclose(squared_norms(model, cross_entropy, left), one.square().sum(1), atol=1e-12)
    squares = mean_squares(model, cross_entropy, left)
    assert torch.allclose(torch.cat([squares[n].flatten() for n in names]), one.square().mean(0), atol=1e-12)


def test_squared_norms_with_weights_and_other_labels(pair):
    model, data, _ = pair
    labels = (data.labels + 1) % 3
    weights = {n: torch.rand_like(p) for n, p in model.named_parameters()}
    flat = torch.cat([w.flatten() for w in weights.values()]).detach()
    expected = (literal_gradients(model, cross_entropy, data, labels).square() * flat).sum(1)
    assert torch.allclose(squared_norms(model, cross_entropy, data, weights, labels=labels), expected, atol=1e-12)


def test_frozen_parameters_have_no_gradient(pair):
    model, data, _ = pair
    model = copy.deepcopy(model)
    model[0].requires_grad_(False)
    assert set(per_sample_gradients(model, cross_entropy, data)) == {"1.weight", "1.bias", "4.weight", "4.bias"}


@pytest.mark.parametrize("layer", [torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5)])
def test_layers_in_training_mode_are_refused(layer):
    model = torch.nn.Sequential(torch.nn.Linear(2, 4), layer)
    check_model(model.eval())
    with pytest.raises(InvalidInput, match=r"1 \(\w+\) is"):
        check_model(model.train())
