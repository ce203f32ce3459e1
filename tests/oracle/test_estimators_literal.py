"""Every estimator against its formula written out: loops over single images, dense matrices, float64."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from influence_core.estimators import FVM, GEX, VM, Loss, TracIn
from influence_core.study import Study
from tests.helpers import LiteralSGD, drawn_batches, literal_gradients, study


@pytest.fixture(scope="module")
def small() -> Study:
    return study()


def at(study: Study, state) -> nn.Module:
    model = copy.deepcopy(study.model)
    model.load_state_dict(state)
    return model.eval()


def losses(study: Study, model: nn.Module, split: str) -> Tensor:
    data = study.split(split)
    with torch.no_grad():
        values = [
            nn.functional.cross_entropy(model(x[None]), torch.tensor([y]))
            for x, y in (data[i] for i in range(len(data)))
        ]
    return torch.stack(values)


# --- TracIn


@pytest.mark.parametrize("weights", ["learning_rate", "equal"])
@pytest.mark.parametrize("last", [None, 1, 3])
def test_tracin(small, weights, last):
    checkpoints = small.trajectory.checkpoints[-last:] if last else small.trajectory.checkpoints
    rates = [c.learning_rate if weights == "learning_rate" else 1 / len(checkpoints) for c in checkpoints]
    assert len(set(rates)) == (len(checkpoints) if weights == "learning_rate" else 1)
    influence, own = torch.zeros(24, 9, dtype=torch.float64), torch.zeros(24, dtype=torch.float64)
    for rate, checkpoint in zip(rates, checkpoints, strict=True):
        model = at(small, checkpoint.state)
        train = literal_gradients(model, small.loss, small.train)
        test = literal_gradients(model, small.loss, small.test)
        for k in range(24):
            own[k] += rate * (train[k] * train[k]).sum()
            for j in range(9):
                influence[k, j] += rate * (train[k] * test[j]).sum()
    estimator = TracIn(weights=weights, last=last).fit(small)
    assert torch.allclose(estimator.influence().values, influence, rtol=1e-10, atol=1e-12)
    assert torch.allclose(estimator.self_influence().values, own, rtol=1e-10, atol=1e-12)
    assert torch.equal(estimator.mislabel_scores().values, estimator.self_influence().values)
    assert influence.abs().max() > 1e-3
    assert (influence < 0).any()


def test_tracin_of_an_image_with_itself_is_its_self_influence(small):
    estimator = TracIn().fit(small.replaced(test=small.train))
    assert torch.allclose(estimator.influence().values.diagonal(), estimator.self_influence().values, rtol=1e-10)
    assert torch.allclose(estimator.influence().values, estimator.influence().values.T, rtol=1e-10)


# --- GEX

SETTINGS = {"epochs": 2.0, "batch_size": 8, "refresh_batches": 4, "learning_rate": 0.1, "weight_decay": 0.02}


def tuned_member(study: Study, start: nn.Module, seed: int) -> nn.Module:
    """Fine-tuning on the noisy training loss with BatchNorm in training mode, then its statistics made anew."""
    model = copy.deepcopy(start).train()
    optimiser = LiteralSGD(model, momentum=0.9, weight_decay=0.02)
    batches = drawn_batches(study.train, 8, seed)
    steps = round(2.0 * 24 / 8)
    for i in range(steps):
        optimiser.step(*next(batches), 0.1 * (1 + math.cos(math.pi * i / steps)) / 2)
    convolution, norm = model[0], model[1]
    with torch.no_grad():
        seen = [convolution(next(batches)[0]) for _ in range(4)]
        norm.running_mean.copy_(torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0))
        norm.running_var.copy_(torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0))
    return model.eval()


def changes(study: Study, members: list[nn.Module], split: str, floor: float, both: bool) -> Tensor:
    base = losses(study, study.model, split)
    base = torch.where(base < floor, floor, base)
    columns = []
    for member in members:
        after = losses(study, member, split)
        columns.append((torch.where(after < floor, floor, after) if both else after) - base)
    return torch.stack(columns, dim=1)


@pytest.fixture(scope="module")
def members(small):
    return [tuned_member(small, small.model, seed) for seed in (3, 4, 5)]


def test_gex_with_one_member(small, members):
    estimator = GEX(members=1, loss_floor=0.0, seed=3, **SETTINGS).fit(small)
    train, test = (losses(small, members[0], s) - losses(small, small.model, s) for s in ("train", "test"))
    assert torch.allclose(estimator.influence().values, torch.outer(train, test), rtol=1e-9, atol=1e-12)
    assert torch.allclose(estimator.self_influence().values, train**2, rtol=1e-9, atol=1e-12)
    assert train.abs().max() > 0.05


@pytest.mark.parametrize("sides", ["both", "baseline"])
@pytest.mark.parametrize("floor", [0.0, 0.9])
def test_gex_with_several_members_and_a_loss_floor(small, members, sides, floor):
    base = losses(small, small.model, "train")
    assert floor == 0 or (base < floor).any() & (base > floor).any()
    train, test = (changes(small, members, s, floor, sides == "both") for s in ("train", "test"))
    estimator = GEX(members=3, loss_floor=floor, floor_sides=sides, seed=3, **SETTINGS).fit(small)
    assert torch.allclose(estimator.influence().values, train @ test.T / 3, rtol=1e-9, atol=1e-12)
    assert torch.allclose(estimator.mislabel_scores().values, train.square().mean(1), rtol=1e-9, atol=1e-12)


def test_the_floor_does_something(small, members):
    wide, both, baseline = (changes(small, members, "train", f, b) for f, b in ((0.0, True), (0.9, True), (0.9, False)))
    assert not torch.allclose(wide, both)
    assert not torch.allclose(both, baseline)


def test_a_chain_goes_on_from_the_member_before(small, members):
    second = tuned_member(small, members[0], 4)
    third = tuned_member(small, small.model, 5)
    train = changes(small, [members[0], second, third], "train", 0.0, True)
    estimator = GEX(members=3, chain=2, seed=3, **SETTINGS).fit(small)
    assert torch.allclose(estimator.self_influence().values, train.square().mean(1), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(train[:, 1], changes(small, [members[1]], "train", 0.0, True)[:, 0])


def test_gex_of_an_image_with_itself_is_its_self_influence(small):
    estimator = GEX(members=3, **SETTINGS).fit(small.replaced(test=small.train))
    assert torch.allclose(estimator.influence().values.diagonal(), estimator.self_influence().values, rtol=1e-12)


# --- VM and FVM


def tuned_on_validation(study: Study, rho: float, batch_statistics: bool = True) -> nn.Module:
    model = copy.deepcopy(study.model).train(batch_statistics)
    optimiser = LiteralSGD(model, momentum=0.9, weight_decay=0.02, rho=rho)
    batches = drawn_batches(study.validation, 5, seed=7)
    for i in range(6):
        optimiser.step(*next(batches), 0.05 * (1 + math.cos(math.pi * i / 6)) / 2)
    return model.eval()


def made(rho: float, **changes):
    settings = {"steps": 6, "learning_rate": 0.05, "weight_decay": 0.02, "batch_size": 5, "seed": 7, "damping": 0.01}
    return FVM(rho=rho, **(settings | changes))


@pytest.mark.parametrize("rho", [0.0, 0.3])
@pytest.mark.parametrize("batch_statistics", [True, False])
@pytest.mark.parametrize("damping", [0.01, 10.0])
def test_fvm(small, rho, batch_statistics, damping):
    model = tuned_on_validation(small, rho, batch_statistics)
    fisher = literal_gradients(model, small.loss, small.validation).square().mean(0)
    inverse = torch.linalg.inv(torch.diag(fisher + damping * fisher.mean()))
    train, test = (literal_gradients(model, small.loss, d) for d in (small.train, small.test))
    q = torch.einsum("np,pr,nr->n", train, inverse, train)
    estimator = made(rho, batch_statistics=batch_statistics, damping=damping).fit(small)
    assert torch.allclose(estimator.mislabel_scores().values, q, rtol=1e-9)
    assert torch.allclose(estimator.influence().values, train @ inverse @ test.T, rtol=1e-9, atol=1e-10)
    labels = estimator.label_influence().values
    for label in range(3):
        given = torch.full((24,), label)
        g = literal_gradients(model, small.loss, small.train, given)
        assert torch.allclose(labels[:, label], -torch.einsum("np,pr,nr->n", g, inverse, g), rtol=1e-9)


def test_label_influence_at_the_given_label_is_minus_q(small):
    estimator = made(0.3).fit(small)
    given = estimator.label_influence().values.gather(1, small.train.labels[:, None])[:, 0]
    assert torch.allclose(given, -estimator.mislabel_scores().values, rtol=1e-12)
    assert (estimator.mislabel_scores().values > 0).all()


def test_fvm_without_a_radius_is_vm(small):
    plain = VM(**{k: v for k, v in made(0.0).get_params().items() if k in VM().get_params()}).fit(small)
    none, some = made(0.0).fit(small), made(0.3).fit(small)
    for method in ("influence", "mislabel_scores", "label_influence"):
        one, two, three = (getattr(e, method)().values for e in (plain, none, some))
        assert torch.equal(one, two)
        assert not torch.allclose(one, three, rtol=1e-3)


def test_vm_without_steps_stays_at_the_trained_model(small):
    estimator = VM(steps=0).fit(small)
    assert torch.equal(estimator.model_[4].weight, small.model[4].weight)


def test_loss(small):
    values = Loss().fit(small).mislabel_scores().values
    assert torch.allclose(values, losses(small, small.model, "train"), rtol=1e-12)


def softened(outputs, labels):
    """A loss that is no cross-entropy and whose labels are not interchangeable."""
    slopes = torch.tensor([1.0, -2.0, 0.5], dtype=outputs.dtype)[labels]
    return (outputs.tanh() * slopes[:, None]).exp().sum(1)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(reduction="none"), softened])
def test_label_influence_of_any_loss_is_that_of_a_sweep_per_label(small, loss):
    with_loss = small.replaced(loss=loss)
    estimator = made(0.3, learning_rate=0.01).fit(with_loss)
    found = estimator.label_influence().values
    for label in range(3):
        g = literal_gradients(estimator.model_, loss, small.train, torch.full((24,), label))
        flat = torch.cat([w.flatten() for w in estimator.inverse_.weights.values()])
        assert torch.allclose(found[:, label], -(g.square() @ flat), rtol=1e-8)


def test_the_likeliest_labels_alone(small):
    """The given label and the one of lowest loss are exact; the third gets the lowest influence, and a finite one."""
    every, some = made(0.3).fit(small), made(0.3, top_labels=1).fit(small)
    whole, part = every.label_influence().values, some.label_influence().values
    with torch.no_grad():
        log_p = every.model_(small.train.batch(range(24))[0]).log_softmax(1)
    given = small.train.labels
    for n in range(24):
        others = [k for k in range(3) if k != int(given[n])]
        best = max(others, key=lambda k: float(log_p[n, k]))
        left = next(k for k in others if k != best)
        for k in (int(given[n]), best):
            assert torch.allclose(part[n, k], whole[n, k], rtol=1e-10)
        low, high = sorted([float(whole[n, int(given[n])]), float(whole[n, best])])
        assert float(part[n, left]) == pytest.approx(2 * low - high, rel=1e-10)
    assert torch.equal(made(0.3, top_labels=2).fit(small).label_influence().values, whole)
