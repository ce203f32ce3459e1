"""Influence by cosine instead of product: literal loops, gradients of zero, batches, refusals, one huge gradient."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators import TRAK, RandProj, TracIn, TracInRP
from influence_core.estimators.gradient_products.projected import PROJECTIONS
from tests.helpers import literal_gradients, study

DIM = 24
MADE = {
    "tracin": TracIn,
    "tracin equal": partial(TracIn, weights="equal", last=2),
    "tracinrp": partial(TracInRP, dim=DIM, seed=5),
    "tracinrp rates": partial(TracInRP, dim=DIM, seed=5, weights="learning_rate", last=2, projection="dense"),
    "randproj": partial(RandProj, dim=DIM, seed=5),
    "trak": partial(TRAK, dim=14, seed=5, last=3),
}
every = pytest.mark.parametrize("name", MADE)


def cosine(one: Tensor, two: Tensor) -> float:
    """Number by number, 0 without a direction."""
    length = math.sqrt(sum(float(a) ** 2 for a in one)) * math.sqrt(sum(float(b) ** 2 for b in two))
    return sum(float(a * b) for a, b in zip(one, two, strict=True)) / length if length else 0.0


def cosines(train: Tensor, test: Tensor) -> Tensor:
    return torch.tensor([[cosine(row, column) for column in test] for row in train], dtype=torch.float64)


def matrix(made: ic.Study, kind: str, dim: int) -> Tensor:
    """The projection [P, k], by the features of unit vectors."""
    rows = []
    for name, parameter in made.model.named_parameters():
        units = torch.eye(parameter.numel(), dtype=torch.float64).reshape(-1, *parameter.shape)
        rows.append(PROJECTIONS[kind](dim, 5).vectors({name: units}))
    return torch.cat(rows)


def log_odds(outputs: Tensor, labels: Tensor) -> Tensor:
    p = outputs.softmax(1).gather(1, labels[:, None])[:, 0]
    return torch.log(p / (1 - p))


def literal(made: ic.Study, estimator: Any) -> Tensor:
    """[N, M], checkpoint by checkpoint and pair by pair."""
    name, last = estimator.name, getattr(estimator, "last", None)
    checkpoints = [] if name == "randproj" else list(made.trajectory)[-(last or 0) :]
    models = [made.at(c) for c in checkpoints] or [made.model]
    total = torch.zeros(len(made.train), len(made.test), dtype=torch.float64)
    doubts = []
    for index, model in enumerate(models):
        loss = log_odds if name == "trak" else made.loss
        train, test = (literal_gradients(model, loss, d) for d in (made.train, made.test))
        if name != "tracin":
            q = matrix(made, estimator.projection, estimator.dim)
            train, test = train @ q, test @ q
        weight = 1 / len(models)
        if getattr(estimator, "weights", "equal") == "learning_rate":
            weight = checkpoints[index].learning_rate
        if name == "trak":
            train, test = (torch.stack([row / row.norm() for row in side]) for side in (train, test))
            gram = train.T @ train
            gram = gram + estimator.damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
            total += weight * train @ torch.linalg.solve(gram, test.T)
            inputs, labels = made.train.batch(range(len(made.train)))
            doubts.append(1 - model(inputs).softmax(1).gather(1, labels[:, None]).detach())
        else:
            total += weight * cosines(train, test)
    return total * torch.stack(doubts).mean(0) if doubts else total


@pytest.fixture(scope="module")
def small() -> ic.Study:
    return study()


@every
def test_the_loop(small, name):
    estimator = MADE[name](similarity="cosine").fit(small)
    found, expected = estimator.influence().values, literal(small, estimator)
    assert torch.allclose(found, expected, rtol=1e-8, atol=1e-11)
    assert torch.allclose(estimator.influence([4, 1]).values, expected[:, [4, 1]], rtol=1e-8, atol=1e-11)
    product = MADE[name]().fit(small).influence().values
    ratio = found / product
    assert float(ratio.max() / ratio.min()) > 1.5 if name != "trak" else not torch.allclose(found, product)
    if name != "trak":
        weights = getattr(estimator, "weights_", [1.0])
        assert float(found.abs().max()) <= sum(weights) * (1 + 1e-9)
        assert torch.equal(found.sign(), product.sign()) or len(weights) > 1


@every
def test_batches_and_order(small, name):
    whole = MADE[name](similarity="cosine").fit(small).influence().values
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    with ic.testing.batches_of(5):
        found = MADE[name](similarity="cosine").fit(small.replaced(train=small.train.subset(order))).influence().values
    assert torch.allclose(found, whole[order], rtol=1e-9, atol=1e-12)


def still(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, but class 2 has no gradient."""
    return ic.losses.cross_entropy(outputs, labels) * (labels != 2)


@pytest.mark.parametrize("name", [n for n in MADE if n != "trak"])
def test_without_a_gradient_there_is_no_angle(small, name):
    made = small.replaced(loss=still)
    found = MADE[name](similarity="cosine").fit(made).influence().values
    train, test = made.train.labels == 2, made.test.labels == 2
    assert train.any()
    assert test.any()
    assert not found[train].any()
    assert not found[:, test].any()
    assert (found[~train][:, ~test] != 0).all()


@pytest.mark.parametrize(
    ("name", "method"),
    [
        (name, method)
        for name in MADE
        for method in ("self_influence", "mislabel_scores")
        if name != "trak" and not (MADE[name] in (TracIn, MADE["tracin equal"]) and method == "mislabel_scores")
    ],
)
def test_what_every_image_has_alike_is_refused(small, name, method):
    estimator = MADE[name](similarity="cosine").fit(small)
    with pytest.raises(NotSupported, match=r"cosine of a gradient with itself is 1.*similarity='product'") as caught:
        getattr(estimator, method)()
    assert estimator.title in str(caught.value)
    assert getattr(MADE[name]().fit(small), method)().values.std() > 0


def test_an_image_that_pulls_against_clean_ones_is_suspicious(small):
    estimator = TracIn(similarity="cosine").fit(small)
    expected = torch.zeros(24, dtype=torch.float64)
    for checkpoint, weight in zip(small.trajectory, estimator.weights_, strict=True):
        model = small.at(checkpoint)
        sides = (literal_gradients(model, small.loss, data) for data in (small.train, small.validation))
        expected -= weight * cosines(*sides).mean(1)
    assert torch.allclose(estimator.mislabel_scores().values, expected, rtol=1e-8, atol=1e-11)
    without = small.replaced(validation=None)
    assert TracIn(similarity="cosine").missing(without, "mislabel_scores") == ["a validation set"]
    assert not TracIn(similarity="cosine").missing(without, "influence")
    with pytest.raises(InvalidInput, match="no validation set"):
        TracIn(similarity="cosine").fit(without).mislabel_scores()


def test_the_leverage_of_unit_features_says_something(small):
    """TRAK's self-influence is no cosine: directions that few images share have a larger one."""
    own = MADE["trak"](similarity="cosine").fit(small).self_influence().values
    assert float(own.min()) > 0
    assert float(own.std()) > 0.01 * float(own.mean())


@every
def test_unknown_similarities_are_refused(name):
    with pytest.raises(InvalidInput, match="similarity is 'angle'; choose"):
        MADE[name](similarity="angle")


@every
def test_it_is_saved(small, name, tmp_path):
    estimator = MADE[name](similarity="cosine").fit(small)
    estimator.save(tmp_path / "one.safetensors")
    loaded = ic.estimators.Estimator.load(tmp_path / "one.safetensors", small)
    assert loaded.similarity == "cosine"
    assert torch.allclose(loaded.influence().values, estimator.influence().values, rtol=1e-12, atol=1e-14)


def at(model: nn.Module) -> ic.training.Trajectory:
    """One checkpoint: the model."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return ic.training.Trajectory([ic.training.Checkpoint(1, 1.0, 1.0, 1.0, 0.0, state)])


def test_one_huge_gradient():
    """An image a thousand times as bright tops every list by product, on one side or the other, and none by cosine."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    labels = (inputs[:, :3] + 0.3 * torch.randn(60, 3, generator=generator, dtype=torch.float64)).argmax(1)
    inputs[7] *= 1000
    model = nn.Linear(8, 3).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    tests = torch.randn(20, 8, generator=generator, dtype=torch.float64)
    made = ic.Study(
        model,
        TensorDataset(inputs, labels),
        TensorDataset(tests, tests[:, :3].argmax(1)),
        trajectory=at(model),
    )
    for make in (TracIn, partial(TracInRP, dim=4096), partial(RandProj, dim=4096)):
        product, angle = (make(similarity=s).fit(made).influence().values for s in ("product", "cosine"))
        assert (product.abs().argmax(0) == 7).all()
        first = int((angle.abs().argmax(0) == 7).sum())
        assert first <= 4  # of 20, where chance gives a third of one
        assert angle[7].any()


def single(data: ic.data.LabelledDataset) -> TensorDataset:
    inputs, labels = data.batch(range(len(data)))
    return TensorDataset(inputs.float(), labels)


def test_certain_images_in_single_precision():
    """Gradients and their squares underflow, and directions are rounding; what comes out stays a cosine."""
    made, model = study(), copy.deepcopy(study().model).float()
    with torch.no_grad():
        model[4].weight.mul_(200.0)
    parts = {split: single(getattr(made, split)) for split in ("train", "test", "validation")}
    made = made.replaced(model=model, trajectory=at(model), **parts)
    found = TracIn(similarity="cosine").fit(made).influence().values
    assert float(literal_gradients(made.model, made.loss, made.train).norm(dim=1).min()) < 1e-15
    assert bool(found.isfinite().all())
    assert float(found.abs().max()) <= 1 + 1e-4
