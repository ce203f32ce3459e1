"""The damping that is chosen: exact at a minimum, careful elsewhere, and what agrees with retraining."""

from __future__ import annotations

import copy

import pytest
import scipy.stats
import torch
from torch import nn

import influence_core as ic
from influence_core.curvature import GaussNewton, mean_diagonal
from influence_core.curvature import trusted_damping as module
from influence_core.curvature.trusted_damping import DAMPINGS, TRUSTED, trusted_damping
from influence_core.errors import NotSupported
from influence_core.estimators import SAMHIF, SAMIF, Estimator, LiSSA
from influence_core.estimators.influence_functions import validated_damping
from influence_core.losses import cross_entropy
from tests.helpers import study as small_study
from tests.oracle.curvature_references import dense_ggn, mlp, points, relative

DECAY = 0.01
CG = ic.estimators.ConjugateGradient


def objective(model: nn.Module, data: torch.utils.data.TensorDataset) -> torch.Tensor:
    inputs, labels = data.tensors
    return cross_entropy(model(inputs), labels).mean() + DECAY / 2 * sum(p.square().sum() for p in model.parameters())


def trained(model: nn.Module, data: torch.utils.data.TensorDataset) -> nn.Module:
    """To the minimum of the mean loss with weight decay."""
    made = copy.deepcopy(model)
    options = {"max_iter": 1000, "tolerance_grad": 1e-12, "tolerance_change": 0, "line_search_fn": "strong_wolfe"}
    solver = torch.optim.LBFGS(made.parameters(), **options)

    def closure() -> torch.Tensor:
        solver.zero_grad()
        loss = objective(made, data)
        loss.backward()
        return loss

    solver.step(closure)
    return made


def test_at_a_minimum_the_least_damping_is_trusted() -> None:
    data = points(40, 1)
    model = trained(mlp(0), data)
    found = trusted_damping(GaussNewton(model, cross_entropy, data, weight_decay=DECAY), 0.1)
    assert found.damping == DAMPINGS[-1]
    assert list(found.ratios) == list(DAMPINGS)


def test_elsewhere_it_is_the_ratio_of_the_decreases() -> None:
    data, unit = points(40, 1), 0.3
    torch.manual_seed(3)
    model = mlp(1)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.5)
    matrix = GaussNewton(model, cross_entropy, data, weight_decay=DECAY)
    found = trusted_damping(matrix, unit)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    slope = torch.cat([g.flatten() for g in torch.autograd.grad(objective(model, data), list(model.parameters()))])
    whole = dense_ggn(model, cross_entropy, data) + DECAY * torch.eye(matrix.size, dtype=torch.float64)
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    for damping, ratio in found.ratios.items():
        step = -torch.linalg.solve(whole + damping * unit * torch.eye(matrix.size, dtype=torch.float64), slope)
        moved = copy.deepcopy(model)
        torch.nn.utils.vector_to_parameters(weights + step, moved.parameters())
        predicted = float(step @ slope + 0.5 * step @ whole @ step)
        assert ratio == pytest.approx(
            float((objective(moved, data) - objective(model, data)).detach()) / predicted, rel=0.02
        )
    tried = list(found.ratios)
    assert tried == list(DAMPINGS[: len(tried)])
    assert 1 < len(tried) < len(DAMPINGS), "this model is made so that some are trusted, and some are not"
    assert found.damping == tried[-2]
    assert all(found.ratios[d] >= TRUSTED for d in tried[:-1])
    assert found.ratios[tried[-1]] < TRUSTED
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_one_krylov_space_finds_what_a_solve_for_each_damping_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    data = points(40, 1)
    torch.manual_seed(3)
    model = mlp(1)
    matrix = GaussNewton(model, cross_entropy, data, weight_decay=DECAY)
    shared = trusted_damping(matrix, 0.3)
    monkeypatch.setattr(module, "BASIS_MIB", 0.0)  # no room for it
    monkeypatch.setattr(module, "ShiftedSystems", None)
    alone = trusted_damping(matrix, 0.3)
    assert shared.damping == alone.damping
    assert shared.ratios == pytest.approx(alone.ratios, rel=5e-3)


@pytest.fixture(scope="module")
def small() -> ic.Study:
    return small_study(epochs=12)


@pytest.mark.parametrize("cls", [CG, LiSSA, SAMIF, SAMHIF])
def test_chosen_and_given_are_the_same(small, tmp_path, cls):
    options = {"rho": 0.01} if cls in (SAMIF, SAMHIF) else {"steps": 300} if cls is LiSSA else {}  # to the limit
    chosen = cls(**options).fit(small)
    assert chosen.damping == "auto"
    given = cls(damping=chosen.damping_, **options).fit(small)
    one, two = chosen.influence([0, 1]), given.influence([0, 1])
    assert relative(one.values, two.values) < (1e-3 if cls is LiSSA else 1e-5)
    assert one.meta["relative_damping"] == chosen.damping_
    assert one.meta["damping"] == pytest.approx(two.meta["damping"])
    assert f"{chosen.damping_:g}" in one.meta["trust"]
    assert "trust" not in two.meta
    chosen.save(tmp_path / "e.safetensors")
    loaded = Estimator.load(tmp_path / "e.safetensors", small)
    assert torch.equal(loaded.influence([0, 1]).values, one.values)
    assert loaded.damping_ == chosen.damping_


@pytest.mark.parametrize("cls", [CG, SAMHIF])
def test_validation_takes_what_agrees_with_retraining(small, monkeypatch, cls):
    options = {"rho": 0.01, "tolerance": 1e-4} if cls is SAMHIF else {}
    halves, losses = [], []
    real = validated_damping.train_fresh

    def watched(model, train, recipe, **rest):
        halves.append(len(train))
        return real(model, train, recipe, **rest)

    def kept(study, gone, seed=0):
        losses.append(found := validated_damping.retrained_losses(study, gone, seed))
        return found

    monkeypatch.setattr(validated_damping, "train_fresh", watched)
    monkeypatch.setattr("influence_core.estimators.influence_functions.solving.retrained_losses", kept)
    estimator = cls(damping="validation", **options).fit(small)
    assert halves == [12] * 12
    agreement = estimator.influence([0]).meta["agreement"]
    assert len(agreement) == len(validated_damping.DAMPINGS)
    # by hand, at the first and at the chosen damping: the predicted change of every validation loss
    gone, clean = validated_damping.left_out(small), small.split("validation")
    for damping in (0.1, estimator.damping_):
        given = cls(damping=damping, **options).fit(small)
        moved = [given.parameter_change(remove=ids) for ids in gone]
        rows = []
        for v in range(len(clean)):
            inputs, labels = clean.batch([v])
            loss = small.loss(small.model(inputs), labels).sum()
            gradients = torch.autograd.grad(loss, [p for p in small.model.parameters() if p.requires_grad])
            names = [n for n, p in small.model.named_parameters() if p.requires_grad]
            each = [sum(float((m[n] * g).sum()) for n, g in zip(names, gradients, strict=True)) for m in moved]
            rows.append(each)
        predicted = torch.tensor(rows, dtype=torch.float64).T
        expected = [scipy.stats.spearmanr(predicted[:, v], losses[0][:, v])[0] for v in range(len(clean))]
        assert agreement[f"{damping:g}"] == pytest.approx(sum(expected) / len(expected), abs=1e-3)
    assert agreement[f"{estimator.damping_:g}"] == max(agreement.values())


def test_validation_needs_a_validation_set(small):
    with pytest.raises(NotSupported, match="needs a validation set"):
        CG(damping="validation").fit(small.replaced(validation=None))


def test_the_mean_diagonal_is_the_unit(small):
    given = CG(damping=0.5).fit(small).influence([0]).meta
    assert given["damping"] == pytest.approx(0.5 * mean_diagonal(small.model, small.loss, small.train))


def test_few_steps_lie_between_the_preconditioner_and_the_solution(small):
    ids = [0, 1, 2]
    prior, whole = CG(steps=1, damping=1.0).fit(small), CG(damping=1.0, tolerance=1e-9).fit(small)
    ekfac = ic.estimators.EKFAC(damping=0.1).fit(small).influence(ids).values  # what preconditions by itself
    one, exact = prior.influence(ids).values, whole.influence(ids).values
    cosine = torch.nn.functional.cosine_similarity(one.flatten(), ekfac.flatten(), dim=0)
    assert torch.allclose(one / one.norm(dim=0), ekfac / ekfac.norm(dim=0), atol=1e-9), "the first step is EK-FAC's"
    assert cosine > 0.9
    errors = []
    for steps in (1, 4, 60):
        scores = CG(steps=steps, damping=1.0).fit(small).influence(ids)
        assert "warnings" not in scores.meta or not scores.meta["warnings"]
        assert scores.meta["iterations"] <= steps
        errors.append(relative(scores.values, exact))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3


def test_lissa_preconditioned_has_the_same_limit(small):
    ids = [0, 1, 2]
    exact = CG(damping=3.0, tolerance=1e-10).fit(small).influence(ids).values
    found = LiSSA(damping=3.0, preconditioner="ekfac", steps=20_000, tolerance=1e-7).fit(small).influence(ids)
    assert found.meta["converged"]
    assert relative(found.values, exact) < 1e-5
