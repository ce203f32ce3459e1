"""GEX's options, GEXLinear and Laplace against literal loops, dense matrices and closed forms, in float64."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.curvature import KFAC, GaussNewton, at_outputs, flatten, unflatten
from influence_core.estimators import GEX, ConjugateGradient, GEXLinear, Laplace
from influence_core.losses import cross_entropy
from influence_core.study import Study, model_outputs
from tests.helpers import LiteralSGD, drawn_batches, literal_gradients, study
from tests.oracle.curvature_references import relative, squared

SETTINGS = {"epochs": 2.0, "batch_size": 8, "refresh_batches": 4, "learning_rate": 0.1, "weight_decay": 0.02}


@pytest.fixture(scope="module")
def small() -> Study:
    return study()


def losses(of: Study, model: nn.Module, split: str) -> Tensor:
    inputs, labels = of.split(split).batch(range(len(of.split(split))))
    with torch.no_grad():
        return cross_entropy(model(inputs), labels)


def changes(of: Study, members: list[nn.Module], split: str) -> Tensor:
    return torch.stack([losses(of, m, split) - losses(of, of.model, split) for m in members], 1)


# --- GEX's options


class ClippedSGD(LiteralSGD):
    clip = math.inf

    def _gradients(self, model, inputs, labels):  # type: ignore[override]
        found = LiteralSGD._gradients(model, inputs, labels)
        norm = math.sqrt(sum(float(g.square().sum()) for g in found))
        return [g * min(1.0, self.clip / (norm + 1e-6)) for g in found]  # 1e-6 is torch.nn.utils.clip_grad_norm_'s


def ensemble(of: Study, count: int, chain=1, constant=False, clip=math.inf, batch=True, keep=False, data=None):
    """Members made one step at a time; the running statistics of the one layer of batch normalisation made anew."""
    members = []
    data = data or of.train
    for m in range(count):
        if m % chain == 0:
            model = copy.deepcopy(of.model)
        if m % chain == 0 or not keep:
            optimiser = ClippedSGD(model, momentum=0.9, weight_decay=0.02)
            optimiser.clip = clip
        model.train(batch)
        batches = drawn_batches(data, 8, 3 + m)
        steps = round(2.0 * len(data) / 8)
        for i in range(steps):
            optimiser.step(*next(batches), 0.1 * (1 if constant else (1 + math.cos(math.pi * i / steps)) / 2))
        if batch:
            with torch.no_grad():
                seen = [model[0](next(batches)[0]) for _ in range(4)]
                model[1].running_mean.copy_(torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0))
                model[1].running_var.copy_(torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0))
        members.append(copy.deepcopy(model.eval()))
    return members


OPTIONS = {
    "constant": ({"schedule": "constant"}, {"constant": True}),
    "clip": ({"clip": 0.2}, {"clip": 0.2}),
    "no batch statistics": ({"batch_statistics": False}, {"batch": False}),
    "chain": ({"chain": 2}, {"chain": 2}),
    "chain with momentum": ({"chain": 2, "keep_momentum": True}, {"chain": 2, "keep": True}),
    "validation": ({"tune_on": "validation"}, {"data": "validation"}),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("linear", [False, True])
def test_options_of_the_ensemble(small, name, linear):
    ours, literal = OPTIONS[name]
    if "data" in literal:
        literal = {"data": small.validation}
    members = ensemble(small, 3, **literal)
    if linear:
        estimator = GEXLinear(members=3, seed=3, **SETTINGS, **ours).fit(small)
        start = torch.cat([p.detach().flatten() for p in small.model.parameters()])
        moved = torch.stack([torch.cat([p.detach().flatten() for p in m.parameters()]) - start for m in members])
        train, test = (literal_gradients(small.model, small.loss, d) @ moved.T for d in (small.train, small.test))
    else:
        estimator = GEX(members=3, seed=3, loss_floor=0.0, **SETTINGS, **ours).fit(small)
        train, test = (changes(small, members, split) for split in ("train", "test"))
    influence = torch.zeros(24, 9, dtype=torch.float64)
    for m in range(3):
        influence += torch.outer(train[:, m], test[:, m]) / 3
    assert torch.allclose(estimator.influence().values, influence, rtol=1e-8, atol=1e-12)
    assert torch.allclose(estimator.self_influence().values, train.square().sum(1) / 3, rtol=1e-8, atol=1e-12)
    plain = type(estimator)(members=3, seed=3, **({} if linear else {"loss_floor": 0.0}), **SETTINGS).fit(small)
    assert relative(plain.influence().values, influence) > 1e-2  # the option does something


def test_keeping_the_momentum_matters(small):
    one, two = (GEX(members=2, chain=2, keep_momentum=keep, **SETTINGS).fit(small) for keep in (False, True))
    assert torch.equal(one.changes_["train"][:, 0], two.changes_["train"][:, 0])
    assert relative(one.changes_["train"][:, 1], two.changes_["train"][:, 1]) > 1e-2


@pytest.mark.parametrize("floor", [0.0, 0.7])  # below the model's mean, above the members'
def test_mislabel_scores_against_the_validation_set(small, floor):
    members = ensemble(small, 3)

    def floored(values: Tensor) -> Tensor:
        return torch.where(values < floor, floor, values)

    expected = torch.zeros(24, dtype=torch.float64)
    for member in members:
        mean = [losses(small, m, "validation").mean() for m in (member, small.model)]
        own = floored(losses(small, member, "train")) - floored(losses(small, small.model, "train"))
        expected -= (floored(mean[0]) - floored(mean[1])) * own / 3
    estimator = GEX(members=3, seed=3, loss_floor=floor, detect_by="validation", **SETTINGS).fit(small)
    assert torch.allclose(estimator.mislabel_scores().values, expected, rtol=1e-8, atol=1e-12)
    assert expected.abs().max() > 1e-4
    assert torch.equal(estimator.self_influence().values, estimator.changes_["train"].square().mean(1))


def test_gexlinear_against_the_validation_set_is_minus_the_mean_over_it(small):
    estimator = GEXLinear(members=3, detect_by="validation", **SETTINGS).fit(small)
    crossed = GEXLinear(members=3, **SETTINGS).fit(small.replaced(test=small.validation)).influence().values
    assert torch.allclose(estimator.mislabel_scores().values, -crossed.mean(1), rtol=1e-9, atol=1e-13)


# --- Laplace


def jacobian(of: Study, split: str) -> Tensor:
    """[n, K, P], sample by sample in reverse mode."""
    inputs, _ = of.split(split).batch(range(len(of.split(split))))
    rows = []
    for x in inputs:
        outputs = of.model(x[None])[0]
        per_output = [torch.autograd.grad(o, list(of.model.parameters()), retain_graph=True) for o in outputs]
        rows.append(torch.stack([torch.cat([g.flatten() for g in found]) for found in per_output]))
    return torch.stack(rows)


def shapes(of: Study) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in of.model.named_parameters()}


def dense_covariance(of: Study, estimator: Laplace) -> Tensor:
    """(N (H + lambda + delta))^-1 as one matrix, from dense blocks and torch.linalg.inv."""
    size, count, decay = sum(p.numel() for p in of.model.parameters()), len(of.train), of.weight_decay
    one = torch.eye(size, dtype=torch.float64)
    if estimator.structure == "full":
        j = jacobian(of, "train")
        p = of.outputs("train").softmax(1)
        c = torch.diag_embed(p) - p[:, :, None] * p[:, None]
        ggn = torch.einsum("nkp,nkl,nlq->pq", j, c, j) / count
        return torch.linalg.inv(ggn + (decay + estimator.damping * ggn.diagonal().mean()) * one) / count
    parts = unflatten(one, shapes(of))
    covariance = torch.zeros_like(one)
    if estimator.structure == "diagonal":
        (drawn,) = at_outputs(of.model, of.loss, of.train, "sampled", estimator.seed)
        squares = torch.einsum("nk,nkp->np", drawn, jacobian(of, "train")).square().mean(0)
        diagonals = {name: v[0] for name, v in unflatten(squares[None], shapes(of)).items()}
    else:
        kfac = KFAC.fit(of.model, of.loss, of.train, seed=estimator.seed)
        diagonals = dict(kfac.diagonal)
        for layer in kfac.layers:
            entries = layer.matrices(parts).flatten(2)
            for g, block in enumerate(kfac.dense(layer.weight, corrected=estimator.corrected)):
                shift = decay + estimator.damping * block.diagonal().mean()
                inverse = torch.linalg.inv(block + shift * torch.eye(len(block), dtype=torch.float64))
                covariance += entries[:, g] @ inverse @ entries[:, g].T / count
    for name, diagonal in diagonals.items():
        weights = 1 / (diagonal + decay + estimator.damping * diagonal.mean())
        covariance += torch.diag((parts[name].flatten(1) * weights.flatten()).sum(1)) / count
    return covariance


STRUCTURES = {
    "kfac": {"structure": "kfac"},
    "ekfac": {"structure": "kfac", "corrected": True},
    "diagonal": {"structure": "diagonal"},
    "full": {"structure": "full"},
}


@pytest.mark.parametrize("linearised", [False, True])
@pytest.mark.parametrize("name", STRUCTURES)
def test_laplace_is_losses_at_draws_with_the_dense_covariance(small, name, linearised):
    estimator = Laplace(**STRUCTURES[name], linearised=linearised, samples=4, scale=0.5, seed=2, loss_floor=0.3)
    covariance = dense_covariance(small, estimator)
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.sqrt()) @ vectors.T
    generator = torch.Generator().manual_seed(2)
    train, test = torch.zeros(24, 4, dtype=torch.float64), torch.zeros(9, 4, dtype=torch.float64)
    for m in range(4):
        normal = {n: torch.randn(s, generator=generator, dtype=torch.float64)[None] for n, s in shapes(small).items()}
        moved = 0.5 * root @ flatten(normal, shapes(small))[0]
        for split, into in (("train", train), ("test", test)):
            data = small.split(split)
            if linearised:
                outputs = small.outputs(split) + jacobian(small, split) @ moved
            else:
                model = copy.deepcopy(small.model)
                for name, (v,) in unflatten(moved[None], shapes(small)).items():
                    model.get_parameter(name).data += v
                outputs = model_outputs(model, data)
            after, before = cross_entropy(outputs, data.labels), losses(small, small.model, split)
            into[:, m] = after.clamp(min=0.3) - before.clamp(min=0.3)
    estimator.fit(small)
    assert relative(estimator.influence().values, train @ test.T / 4) < 1e-6
    assert relative(estimator.self_influence().values, train.square().mean(1)) < 1e-6
    assert torch.equal(estimator.mislabel_scores().values, estimator.self_influence().values)
    assert train.abs().max() > 0.1


@pytest.mark.parametrize("name", STRUCTURES)
def test_draws_have_the_covariance_of_the_formula(small, name):
    estimator = Laplace(**STRUCTURES[name], samples=6_000, scale=2.0)
    blocks = [flatten(draw(), shapes(small)) for draw in estimator._draws(small, estimator._inverse(small).root())]
    draws = torch.cat(blocks)
    assert draws.shape == (6_000, 183)
    covariance = 4.0 * dense_covariance(small, estimator)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), draws.T, upper=False)
    found = whitened @ whitened.T / 6_000
    assert (found - torch.eye(183, dtype=torch.float64)).abs().max() < 0.09  # five standard errors
    assert whitened.mean(1).abs().max() < 0.065


def test_a_draw_does_not_depend_on_how_many_are_made_together(small, monkeypatch):
    together = Laplace(samples=5).fit(small).influence().values
    monkeypatch.setattr("influence_core.estimators.ensembles.laplace._DRAW_BYTES", 183 * 8 * 2)
    assert torch.allclose(Laplace(samples=5).fit(small).influence().values, together, rtol=1e-10, atol=1e-14)


def linear_study() -> Study:
    """A model that is linear in its parameters, with squared loss and no interpolation."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2).double()
    inputs, labels = torch.randn(20, 4, dtype=torch.float64), torch.randint(0, 2, (20,))
    train, test = (TensorDataset(inputs[:14], labels[:14]), TensorDataset(inputs[14:], labels[14:]))
    return ic.Study(model, train, test, loss=squared, weight_decay=0.05)


@pytest.mark.parametrize("linearised", [False, True])
def test_expectation_in_closed_form_for_squared_loss(linearised):
    r"""Delta = g'd + |Jd|^2 / 2 exactly, so E[Delta Delta'] = g'Sg' + (tr A tr A' + 2 tr(A A')) / 4 by Isserlis."""
    of = linear_study()
    estimator = Laplace(structure="full", linearised=linearised, samples=5_000, scale=2.0).fit(of)
    covariance = 4.0 * dense_covariance_squared(of, estimator)
    train, test = jacobian(of, "train"), jacobian(of, "test")
    g, v = (literal_gradients(of.model, of.loss, d) for d in (of.train, of.test))
    across = torch.einsum("nkp,pq,mlq->nmkl", train, covariance, test)
    traces = [torch.einsum("nkp,pq,nkq->n", j, covariance, j) for j in (train, test)]
    expected = g @ covariance @ v.T + (torch.outer(*traces) + 2 * across.square().sum((2, 3))) / 4
    assert relative(estimator.influence().values, expected) < 0.12
    assert relative(g @ covariance @ v.T, expected) > 0.3  # the terms that linearised losses would lose


def dense_covariance_squared(of: Study, estimator: Laplace) -> Tensor:
    j = jacobian(of, "train")
    ggn = torch.einsum("nkp,nkq->pq", j, j) / len(of.train)
    shift = of.weight_decay + estimator.damping * ggn.diagonal().mean()
    return torch.linalg.inv(ggn + shift * torch.eye(len(ggn), dtype=torch.float64)) / len(of.train)


def test_for_small_draws_it_is_the_influence_function_in_nats():
    """Theorem 4.1 with 1/N: no factor is left between the two."""
    of = linear_study()
    scale = 1e-3
    found = Laplace(structure="full", samples=5_000, scale=scale).fit(of).influence().values / scale**2
    expected = ConjugateGradient(damping=0.1, tolerance=1e-12).fit(of).influence().values
    assert relative(found, expected) < 0.12


def test_changes_of_outputs_are_the_jacobian_times_the_vector(small):
    rows = torch.randn(3, 183, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    product = GaussNewton(small.model, small.loss, small.train, batch_size=5, damping=9.0)
    found = product.output_changes(rows)
    expected = torch.einsum("nkp,rp->rnk", jacobian(small, "train"), rows)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)
    assert found.shape == (3, 24, 3)


def test_a_hessian_is_taken_where_it_is_positive(small):
    for damping in (0.0, 1.0):
        with pytest.raises(ic.errors.InvalidInput, match="smallest eigenvalue is -") as refused:
            Laplace(structure="full", curvature="hessian", damping=damping).fit(small)
        least = float(re.search(r"damping above ([\d.]+)", str(refused.value))[1])
        Laplace(structure="full", curvature="hessian", damping=1.01 * least).fit(small)
        with pytest.raises(ic.errors.InvalidInput, match="smallest eigenvalue is -"):
            Laplace(structure="full", curvature="hessian", damping=0.99 * least).fit(small)
    one, two = (
        Laplace(structure="full", curvature=c, damping=50.0).fit(small).influence().values for c in ("ggn", "hessian")
    )
    assert 1e-4 < relative(one, two) < 0.5


def test_what_a_study_is_too_large_for_or_lacks_is_refused(small, monkeypatch):
    monkeypatch.setattr("influence_core.curvature.inverses.dense.LARGEST", 182)
    with pytest.raises(ic.errors.NotSupported, match=r"183 x 183.*'kfac' or 'diagonal'"):
        Laplace(structure="full").fit(small)
    lacking = small.replaced(validation=None)
    for estimator in (GEX(members=1, tune_on="validation"), GEXLinear(members=1, detect_by="validation")):
        with pytest.raises(ic.errors.InvalidInput, match="no validation set"):
            estimator.fit(lacking)
