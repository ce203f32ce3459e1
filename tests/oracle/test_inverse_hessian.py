"""Estimators with an inverse curvature against dense inverses, literal formulas, and retraining."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

import influence_core as ic
from influence_core.curvature import KFAC
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators import EKFAC, Arnoldi, ConjugateGradient, DataInf, LastLayer, LiSSA
from influence_core.losses import cross_entropy
from tests.oracle.curvature_references import (
    dense_ggn,
    dense_hessian,
    gradients,
    points,
    relative,
    restored,
    small_study,
    squared,
    tensors,
    vector,
)

GENEROUS = 30.0
"""Damping under which the MLP's Hessian is positive definite (asserted)."""


def exact(estimator):
    """The estimator with a solver that goes to the end."""
    settings = {
        "conjugategradient": {"tolerance": 1e-11},
        "lissa": {"tolerance": 1e-11, "steps": 20000},
        "arnoldi": {"rank": 500, "steps": 500},
        "ekfac": {"labels": "exact"},
    }
    return lambda **parameters: estimator(**(settings.get(estimator.name, {}) | parameters))


SOLVERS = [exact(ConjugateGradient), exact(LiSSA), exact(Arnoldi)]
solvers = pytest.mark.parametrize("make", SOLVERS, ids=["cg", "lissa", "arnoldi"])


def dense_inverse(study, estimator, curvature):
    matrix = {"ggn": dense_ggn, "hessian": dense_hessian}[curvature](study.model, study.loss, tensors(study.train))
    shift = study.weight_decay + estimator._facts()["damping"]
    matrix += shift * torch.eye(len(matrix), dtype=matrix.dtype)
    assert float(torch.linalg.eigvalsh(matrix)[0]) > 0
    return torch.linalg.inv(matrix)


def check_all(study, estimator, inverse):
    g, test = (gradients(study.model, study.loss, d) for d in (study.train, study.test))
    influence = estimator.influence()
    assert relative(influence.values, g @ inverse @ test.T / len(g)) < 1e-6
    assert influence.scale == ("rank only" if estimator.name == "arnoldi" else "nats")
    assert relative(estimator.influence([4, 1]).values, influence.values[:, [4, 1]]) < 1e-6
    assert relative(estimator.self_influence().values, ((g @ inverse) * g).sum(1) / len(g)) < 1e-6
    change = estimator.parameter_change([3, 5, 11])
    assert relative(vector(change), inverse @ g[[3, 5, 11]].sum(0) / len(g)) < 1e-6
    assert {n: t.shape for n, t in change.items()} == {n: p.shape for n, p in study.model.named_parameters()}
    assert influence.meta["residual"] < 1e-6
    assert influence.meta["damping"] == estimator._facts()["damping"]


@solvers
@pytest.mark.parametrize("depth", [0, 1], ids=["logistic", "mlp"])
def test_ggn(make, depth):
    study = small_study(depth)
    estimator = make(damping=0.1).fit(study)
    check_all(study, estimator, dense_inverse(study, estimator, "ggn"))


@solvers
def test_hessian_of_logistic_regression(make):
    study = small_study(0)
    estimator = make(curvature="hessian", damping=0.0).fit(study)
    assert estimator._facts()["damping"] == 0
    if estimator.name != "arnoldi":  # which leaves the null space out, and that is no null space of all directions
        check_all(study, estimator, dense_inverse(study, estimator, "hessian"))
    else:
        study = small_study(0, weight_decay=0.5)
        estimator.fit(study)
        check_influence_only(study, estimator, dense_inverse(study, estimator, "hessian"))


def check_influence_only(study, estimator, inverse):
    g, test = (gradients(study.model, study.loss, d) for d in (study.train, study.test))
    assert relative(estimator.influence().values, g @ inverse @ test.T / len(g)) < 1e-6


@pytest.mark.parametrize("make", SOLVERS[:2], ids=["cg", "lissa"])
def test_damped_hessian_of_an_mlp(make):
    study = small_study(1)
    estimator = make(curvature="hessian", damping=GENEROUS).fit(study)
    check_all(study, estimator, dense_inverse(study, estimator, "hessian"))


def test_an_indefinite_hessian_is_refused():
    study = small_study(1, weight_decay=0.0)
    assert float(torch.linalg.eigvalsh(dense_hessian(study.model, study.loss, tensors(study.train)))[0]) < -1e-3
    with pytest.raises(InvalidInput, match="curvature='ggn'"):
        ConjugateGradient(curvature="hessian", damping=1e-6).fit(study).influence()
    with pytest.raises(InvalidInput, match="diverges"):
        LiSSA(curvature="hessian", damping=1e-6, steps=100000).fit(study).influence()


def test_iterations_that_run_out_are_said():
    study = small_study(1)
    with pytest.warns(UserWarning, match="relative residual"):
        scores = ConjugateGradient(damping=0.1, max_iterations=2, preconditioner=None).fit(study).influence()
    assert not scores.meta["converged"]
    assert scores.meta["residual"] > 1e-4
    few = LiSSA(damping=0.1, steps=3).fit(study).influence()
    assert few.meta["residual"] > 0.1
    assert few.meta["iterations"] == 3


@pytest.mark.parametrize("curvature", ["factorised", "iterative"])
@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("loss", [cross_entropy, squared])
def test_last_layer(monkeypatch, curvature, depth, loss):
    if curvature == "iterative":
        monkeypatch.setattr("influence_core.estimators.influence_functions.last_layer.CHOLESKY_SIZE", 1)
        monkeypatch.setattr("influence_core.estimators.influence_functions.last_layer.TOLERANCE", 1e-11)
    study = small_study(depth, loss=loss)
    estimator = LastLayer(damping=0.2).fit(study)
    size = len(vector(estimator.parameter_change(0)))
    dense = dense_ggn(study.model, loss, tensors(study.train))[-size:, -size:]
    if curvature == "factorised":
        assert abs(estimator.inverse_.damping / (0.2 * float(dense.diagonal().mean())) - 1) < 1e-9
    dense += (study.weight_decay + estimator.inverse_.damping) * torch.eye(size, dtype=dense.dtype)
    g, test = (gradients(study.model, loss, d)[:, -size:] for d in (study.train, study.test))
    inverse = torch.linalg.inv(dense)
    assert relative(estimator.influence().values, g @ inverse @ test.T / 30) < 1e-6
    assert relative(estimator.self_influence().values, ((g @ inverse) * g).sum(1) / 30) < 1e-6
    change = estimator.parameter_change([2, 9])
    assert relative(vector(change), inverse @ g[[2, 9]].sum(0) / 30) < 1e-6
    assert list(change) == [n for n, _ in study.model.named_parameters()][-2:]
    study.edited(change)
    whole = gradients(study.model, loss, study.train)
    coverage = estimator.influence().coverage
    assert coverage.parameters == size / whole.shape[1]
    assert abs(coverage.gradient_norm - float(g.square().sum() / whole.square().sum())) < 1e-9
    assert (coverage.gradient_norm < 1) == (depth > 0)


def test_last_layer_refusals():
    with pytest.raises(NotSupported, match="does not end in a linear layer"):
        LastLayer().fit(ic.Study(nn.Sequential(small_study(0).model, nn.Tanh()), points(9, 1), points(3, 2)))
    with pytest.raises(NotSupported, match="singular"):
        LastLayer(damping=0.0).fit(small_study(0, weight_decay=0.0))


def test_ekfac_is_the_inverse_of_its_blocks():
    """The factors are checked in test_ekfac; here, that the estimator puts them together."""
    study = small_study(1)
    estimator = EKFAC(labels="exact").fit(study)
    g, test = (gradients(study.model, study.loss, d) for d in (study.train, study.test))
    solved, begin = torch.zeros_like(test), 0
    kfac = KFAC.fit(study.model, study.loss, study.train, draw="exact")
    for layer in kfac.layers:
        dense = kfac.dense(layer.weight)[0]
        size, width = len(dense), layer.width
        dense += (estimator.damping * float(dense.diagonal().mean()) + study.weight_decay) * torch.eye(
            size, dtype=dense.dtype
        )
        places = torch.arange(size).reshape(-1, width)
        order = torch.cat([places[:, :-1].flatten(), places[:, -1]])  # weight, then bias
        block = test[:, begin : begin + size]
        solved[:, begin : begin + size] = torch.linalg.solve(dense[order][:, order], block.T).T
        begin += size
    assert relative(estimator.influence().values, g @ solved.T / 30) < 1e-8
    own = estimator.self_influence()
    twin = EKFAC(labels="exact").fit(study.replaced(test=study.train))
    assert relative(own.values, twin.influence().values.diagonal()) < 1e-8
    assert own.meta["kronecker_share"] == 1.0


def test_datainf_is_its_formula():
    study = small_study(1, weight_decay=0.0)
    estimator = DataInf().fit(study)
    sizes = [p.numel() for p in study.model.parameters()]
    train, test, clean = (
        gradients(study.model, study.loss, d).split(sizes, 1) for d in (study.train, study.test, study.validation)
    )
    count = len(study.train)
    influence, own, mislabel = torch.zeros(count, 6).double(), torch.zeros(count).double(), torch.zeros(count).double()
    for g, t, v in zip(train, test, clean, strict=True):
        shift = 0.1 * sum(float(row @ row) for row in g) / (count * g.shape[1])

        def inverse(x, g=g, shift=shift):
            total = torch.zeros_like(x)
            for row in g:
                total += (x - (row @ x) / (shift + row @ row) * row) / (count * shift)
            return total

        influence += g @ torch.stack([inverse(x) for x in t]).T / count
        own += torch.stack([x @ inverse(x) for x in g]) / count
        mislabel -= g @ inverse(v.mean(0)) / count
    assert relative(estimator.influence().values, influence) < 1e-10
    assert relative(estimator.self_influence().values, own) < 1e-10
    assert relative(estimator.mislabel_scores().values, mislabel) < 1e-10
    shifted = DataInf().fit(study.replaced(weight_decay=1.0))
    assert relative(shifted.influence().values, influence) > 0.1


@pytest.mark.parametrize("make", SOLVERS[:2], ids=["cg", "lissa"])
def test_mislabel_scores_are_harm_to_the_validation_set(make):
    study = small_study(1)
    estimator = make().fit(study)
    clean = gradients(study.model, study.loss, study.validation).mean(0)
    g = gradients(study.model, study.loss, study.train)
    expected = -(g @ dense_inverse(study, estimator, "ggn") @ clean) / 30
    assert relative(estimator.mislabel_scores().values, expected) < 1e-6
    with pytest.raises(InvalidInput, match="no validation set"):
        make().fit(study.replaced(validation=None)).mislabel_scores()


@pytest.mark.parametrize("make", [*SOLVERS, EKFAC, DataInf, LastLayer])
def test_a_group_is_the_sum_and_agrees_with_influence(make):
    """The change of the weights, times a test gradient, is the influence: one convention of sign and scale."""
    study = small_study(1)
    estimator = make().fit(study)
    alone = [estimator.parameter_change(i) for i in (2, 7)]
    both = estimator.parameter_change([7, 2])
    for name, change in both.items():
        assert relative(change, alone[0][name] + alone[1][name]) < 1e-8
    names = [n for n, _ in study.model.named_parameters()]
    zeros = {n: torch.zeros_like(p) for n, p in study.model.named_parameters()}
    test = gradients(study.model, study.loss, study.test)
    expected = estimator.influence().values[[2, 7]].sum(0)
    change = vector({n: both.get(n, zeros[n]) for n in names})
    assert relative(test @ change, expected) < 1e-8
    with pytest.raises(InvalidInput, match="no training image 30"):
        estimator.parameter_change([30])
    with pytest.raises(InvalidInput, match="twice"):
        estimator.parameter_change([1, 1])


def test_others_say_who_can():
    estimator = ic.estimators.Loss().fit(small_study(0))
    with pytest.raises(NotSupported, match=r"gives no parameter change.*ConjugateGradient.*EKFAC"):
        estimator.parameter_change([0])


# Against the truth


def minimum(study, weights):
    """Logistic regression trained to a gradient of 1e-10 with a weight for each training image, as a new study."""
    inputs, labels = study.train.batch(range(len(study.train)))
    row = vector({n: p.detach() for n, p in study.model.named_parameters()}).clone().requires_grad_()

    def objective():
        row.grad = None
        outputs = torch.func.functional_call(study.model, restored(row, study.model), (inputs,))
        value = (weights * study.loss(outputs, labels)).sum() + study.weight_decay / 2 * row.square().sum()
        value.backward()
        return value

    for search in ("strong_wolfe", None):  # a line search compares values, which ends at 1e-9; full steps go on
        torch.optim.LBFGS(
            [row], max_iter=300, tolerance_grad=1e-12, tolerance_change=0, history_size=50, line_search_fn=search
        ).step(objective)
    objective()
    assert float(row.grad.abs().max()) < 1e-10, row.grad.abs().max()
    own = vector({n: p.detach() for n, p in study.model.named_parameters()})
    return study.edited(restored(row.detach() - own, study.model))


@functools.cache
def logistic():
    study = small_study(0, train=points(80, 1), test=points(20, 2), weight_decay=0.02)
    return minimum(study, torch.full((80,), 1 / 80, dtype=torch.float64))


@functools.cache
def left_out():
    """True change of each test loss: [N, M], by retraining without each training image."""
    study, rows = logistic(), []
    for k in range(80):
        weights = torch.full((80,), 1 / 80, dtype=torch.float64)
        weights[k] = 0
        rows.append(minimum(study, weights).losses() - study.losses())
    return torch.stack(rows)


def correlation(one, other):
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


@pytest.mark.parametrize(
    ("make", "least"),
    [(SOLVERS[0], 0.995), (SOLVERS[1], 0.995), (SOLVERS[2], 0.995), (LastLayer, 0.995), (exact(EKFAC), 0.9)],
    ids=["cg", "lissa", "arnoldi", "lastlayer", "ekfac"],
)
def test_leave_one_out(make, least):
    """In sign, in order, and, for those that claim nats, in size."""
    found = make(damping=0.0).fit(logistic()).influence().values
    true = left_out()
    assert correlation(found, true) > least
    slope = float((found * true).sum() / true.square().sum())
    assert (0.8 if least > 0.9 else 0.5) < slope < (1.1 if least > 0.9 else 2.0), slope
    worst = min(correlation(found[:, j], true[:, j]) for j in range(20))
    assert worst > least - 0.1, worst


@pytest.mark.parametrize(("share", "least"), [(0.1, 0.03), (1.0, 0.3)])
def test_the_edited_study_is_the_retrained_one(share, least):
    """To first order: with a tenth of the images' weight removed, the error is a tenth as well."""
    study, removed = logistic(), [4, 17, 40]
    weights = torch.full((80,), 1 / 80, dtype=torch.float64)
    weights[removed] *= 1 - share
    true = minimum(study, weights)
    change = SOLVERS[0](damping=0.0).fit(study).parameter_change(removed)
    edited = study.edited({name: share * delta for name, delta in change.items()})
    start, moved, found = (vector(dict(s.model.named_parameters())).detach() for s in (study, true, edited))
    assert relative(found - start, moved - start) < least
    assert correlation(edited.losses() - study.losses(), true.losses() - study.losses()) > 0.99
    fewer = edited.losses("train")[removed] - study.losses("train")[removed]
    assert (fewer > 0).all()  # what was removed is fitted less well


def test_ridge_leave_one_out_in_closed_form():
    """Sherman and Morrison: for squared loss the influence is the truth but for the leverage, 1 - x' H^-1 x / N."""
    study = small_study(0, train=points(40, 1), loss=squared, weight_decay=0.05)
    study = minimum(study, torch.full((40,), 1 / 40, dtype=torch.float64))
    inputs, labels = study.train.batch(range(40))
    x = torch.cat([inputs, torch.ones(40, 1).double()], 1)
    hessian = x.T @ x / 40 + 0.05 * torch.eye(6).double()
    leverage = ((x @ torch.linalg.inv(hessian)) * x).sum(1) / 40
    targets = (labels - 1).double()
    theta = torch.linalg.solve(hessian, x.T @ targets / 40)  # the same for each output
    estimator = SOLVERS[0](damping=0.0).fit(study)
    for k in (0, 13, 39):
        kept = [i for i in range(40) if i != k]
        without = torch.linalg.solve(
            x[kept].T @ x[kept] / 40 + 0.05 * torch.eye(6).double(), x[kept].T @ targets[kept] / 40
        )
        change = estimator.parameter_change(k)
        found = torch.cat([change["1.weight"], change["1.bias"][:, None]], 1)
        assert relative(found[0] / (1 - leverage[k]), without - theta) < 1e-6
        assert relative(found[2], found[0]) < 1e-6
        assert relative(found[0], without - theta) > 1e-3
        assert leverage[k] > 0.01
