"""The contract that all estimators keep, and what each refuses. Their numbers are checked in tests/oracle."""

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
from influence_core.testing.tools import outcomes
from tests.estimator_settings import own_estimators, quick
from tests.helpers import images, literal_gradients, net, states_equal, study

MADE = {cls.name: quick(cls) for cls in own_estimators()}
METHODS = ["influence", "self_influence", "mislabel_scores", "label_influence"]
GIVES = dict.fromkeys(MADE, METHODS[:3]) | {
    "vm": ["influence", "mislabel_scores", "label_influence"],
    "fvm": ["influence", "mislabel_scores", "label_influence"],
    "labelcontrast": ["influence", "mislabel_scores", "label_influence"],
    "confidentlearning": ["mislabel_scores", "label_influence"],
    "deepknn": ["mislabel_scores", "label_influence"],
    "el2n": ["mislabel_scores"],
    "forgetting": ["mislabel_scores"],
    "loss": ["mislabel_scores"],
    "tunedloss": ["mislabel_scores"],
    "random": ["mislabel_scores"],
    **{name: ["influence", "mislabel_scores"] for name in ("samif", "samhif", "samgif")},
    **{name: [] for name in ("gif", "fif", "pif")},
}


@pytest.fixture(scope="module")
def small():
    return study()


@pytest.fixture(scope="module")
def fitted(small):
    return {name: make().fit(small) for name, make in MADE.items()}


def results(estimator):
    return {m: getattr(estimator, m)().values for m in estimator.gives() if m in METHODS}


def close(one, two, tolerance=0.0):
    return one.keys() == two.keys() and all(torch.allclose(one[k], two[k], rtol=tolerance, atol=tolerance) for k in one)


every = pytest.mark.parametrize("name", MADE)


@every
def test_what_it_gives(fitted, small, name):
    estimator = fitted[name]
    assert [m for m in estimator.gives() if m in METHODS] == GIVES[name]
    shapes = {"influence": (24, 9), "label_influence": (24, 3)}
    for method in GIVES[name]:
        scores = getattr(estimator, method)()
        assert scores.values.shape == shapes.get(method, (24,))
        assert scores.values.dtype == torch.float64
        assert scores.train_ids.tolist() == list(range(24))
        assert scores.kind == method.removesuffix("_scores")
        assert (scores.test_ids is None) == (method != "influence")
        assert scores.train is small.train
        assert scores.meta["study"] == small.fingerprint
        assert scores.meta["parameters"] == dataclasses.asdict(MADE[name]())
        assert scores.meta["estimator"] == scores.name == name
        assert scores.meta["seconds"] > 0
        assert name == "lastlayer" or scores.coverage == ic.Coverage(1.0, 1.0)


@every
def test_what_it_does_not_give_names_those_that_do(fitted, name):
    for method in set(METHODS) - set(GIVES[name]):
        for estimator in (fitted[name], MADE[name]()):
            with pytest.raises(NotSupported) as caught:
                getattr(estimator, method)()
            named = set(str(caught.value).split("do: ")[1].removesuffix(".").split(", "))
            for other, gives in GIVES.items():
                assert (type(fitted[other]).__name__ in named) == (method in gives), other
            assert not isinstance(caught.value, InvalidInput)


@every
def test_fit_first(name):
    for method in GIVES[name]:
        with pytest.raises(NotFitted, match=f"fit.*{method}"):
            getattr(MADE[name](), method)()


@every
def test_fit_again_and_same_seed_same_result(fitted, small, name):
    first = results(fitted[name])
    again = MADE[name]().fit(small)
    assert close(results(again), first)
    torch.manual_seed(99)
    assert again.fit(small) is again
    assert close(results(again), first)


@every
def test_fitting_another_study_forgets_the_first(small, name):
    other = study(noise=0.5)
    estimator = MADE[name]().fit(other).fit(small)
    found = outcomes(estimator)
    assert close(found, outcomes(MADE[name]().fit(small)), 1e-9)
    same = close(found, outcomes(MADE[name]().fit(other)), 1e-6)
    assert same == ("depends_on_the_study" in estimator.exempt)


def test_a_failed_fit_leaves_no_half_results(small):
    estimator = TracIn().fit(small)
    rateless = ic.training.Trajectory([dataclasses.replace(c, learning_rate=0.0) for c in small.trajectory])
    with pytest.raises(InvalidInput, match="learning rate above 0"):
        estimator.fit(small.replaced(trajectory=rateless))
    with pytest.raises(NotFitted):
        estimator.influence()


@pytest.mark.parametrize("name", ["gex", "fvm"])
def test_the_seed_matters(fitted, small, name):
    other = dataclasses.replace(MADE[name](), seed=1).fit(small)
    assert not close(results(other), results(fitted[name]), 1e-6)


@every
def test_study_and_global_randomness_are_left_alone(small, name):
    model, labels = copy.deepcopy(small.model), small.train.labels.clone()
    states = [{k: v.clone() for k, v in c.state.items()} for c in small.trajectory]
    flags = [(m.training, m.__dict__.get("track_running_stats")) for m in small.model.modules()]
    fingerprint = copy.copy(small.fingerprint)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    results(MADE[name]().fit(small))
    assert torch.equal(torch.rand(2), expected)
    assert states_equal(small.model, model)
    assert flags == [(m.training, m.__dict__.get("track_running_stats")) for m in small.model.modules()]
    assert all(p.grad is None and p.requires_grad for p in small.model.parameters())
    assert torch.equal(small.train.labels, labels)
    for checkpoint, before in zip(small.trajectory, states, strict=True):
        assert all(torch.equal(checkpoint.state[k], v) for k, v in before.items())
    assert small.replaced().fingerprint == fingerprint


@every
def test_scores_are_not_the_estimators_own_memory(small, name):
    estimator = MADE[name]().fit(small)
    for method in GIVES[name]:
        before = getattr(estimator, method)().values.clone()
        getattr(estimator, method)().values.zero_()
        assert torch.equal(getattr(estimator, method)().values, before)


@every
def test_batches_of_scoring_do_not_matter(fitted, small, name):
    with ic.testing.batches_of(5):
        assert close(results(MADE[name]().fit(small.replaced())), results(fitted[name]), 1e-9)


@pytest.mark.parametrize("name", ["tracin", "vm", "fvm", "loss", "randproj", "tracinrp", "trak"])
def test_the_order_of_the_training_set_does_not_matter(fitted, small, name):
    """GEX draws its batches from the training set, so its ensemble is another one; TracIn's checkpoints are given."""
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    shuffled = results(MADE[name]().fit(small.replaced(train=small.train.subset(order))))
    for method, values in results(fitted[name]).items():
        assert torch.allclose(shuffled[method], values[order], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["tracin", "gex", "fvm"])
def test_test_ids_are_columns(fitted, name):
    whole = fitted[name].influence()
    assert whole.test_ids.tolist() == list(range(9))
    for ids in ([7, 2], torch.tensor([7, 2], dtype=torch.uint8), np.array([7, 2]), (7, 2)):
        part = fitted[name].influence(test=ids)
        assert part.test_ids.tolist() == [7, 2]
        assert torch.allclose(part.values, whole.values[:, [7, 2]], rtol=1e-9, atol=1e-12)
    for one in (3, np.int64(3), torch.tensor(3)):
        assert torch.allclose(fitted[name].influence(one).values[:, 0], whole.values[:, 3], rtol=1e-9, atol=1e-12)
    assert torch.equal(fitted[name].influence(range(2)).values, fitted[name].influence([0, 1]).values)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 9], "no test image 9; ids go from 0 to 8"),
        ([-1], "no test image -1"),
        ([], "0 values; give integers"),
        ([0.5], "float32 with 1 values; give integers"),
        (True, "torch.bool"),
        (torch.ones(9, dtype=torch.bool), "torch.bool"),
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
    for name, gives in GIVES.items():
        assert [m for m in table.loc[name, "gives"].split(", ") if m != "parameter_change"] == gives
        assert isinstance(ic.estimators.get(name), type(MADE[name]()))
    assert table.loc["tracin", "needs"] == "checkpoint, trajectory"
    assert table.loc["fvm", "needs"] == "checkpoint, validation"
    assert table.loc["loss", "needs"] == "checkpoint"
    assert (table[["title", "paper", "cost"]] != "").all().all()


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
