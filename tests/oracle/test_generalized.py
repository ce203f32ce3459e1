"""GIF, FIF and PIF against dense formulas, closed forms of linear regression, and literal loops."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.curvature import Columns, solve_lsqr, solve_series
from influence_core.estimators import FIF, GIF, PIF
from influence_core.estimators.edits.scale import SCALES, modified_f1
from influence_core.estimators.edits.selectors import choose
from tests.helpers import images, net, study
from tests.oracle.curvature_references import dense_hessian, gradients, relative, small_study, tensors, vector

METHODS = [GIF, FIF, PIF]
methods = pytest.mark.parametrize("make", METHODS, ids=["gif", "fif", "pif"])
CONVERGED = {"scale": 1.0, "tolerance": 1e-14, "max_iterations": 400}


# Linear regression


class Residual(nn.Module):
    """Prediction minus target, so that a target of any size travels with the input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 1)

    def forward(self, points):
        return self.linear(points[:, :-1]) - points[:, -1:]


def half_square(outputs, labels):
    return 0.5 * outputs[:, 0].square()


SIZE, REMOVED = 200, 40
CHOSEN = torch.tensor([True, True, False, False, False])


def regression(decay):
    """Least squares at its minimum, with correlated inputs and some wild targets: study, H and b of what is left."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(SIZE, 5, generator=generator, dtype=torch.float64)
    x = x @ torch.rand(5, 5, generator=generator, dtype=torch.float64)
    noise = torch.randn(SIZE + 5, generator=generator, dtype=torch.float64)
    y = x @ noise[-5:] + 1 + 0.3 * noise[:SIZE]
    y[:REMOVED] *= -3
    rows = torch.cat([x, torch.ones(SIZE, 1, dtype=torch.float64)], 1)
    ridge = decay * torch.eye(6, dtype=torch.float64)
    start = torch.linalg.solve(rows.T @ rows / SIZE + ridge, rows.T @ y / SIZE)
    model = Residual().double()
    model.load_state_dict({"linear.weight": start[None, :5], "linear.bias": start[5:]})
    data = TensorDataset(torch.cat([x, y[:, None]], 1), torch.zeros(SIZE, dtype=torch.long))
    made = ic.Study(model, data, data, loss=half_square, weight_decay=decay)
    left, targets = rows[REMOVED:], y[REMOVED:]
    return made, start, left.T @ left / SIZE + ridge, left.T @ targets / SIZE


def moved(make, made, masks):
    change = make(selector=masks, **CONVERGED).fit(made).parameter_change(range(REMOVED))
    zero = {n: torch.zeros_like(p) for n, p in made.model.named_parameters()}
    return vector(zero | change)


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_linear_regression_with_frozen_weights(decay):
    """FIF reaches the least loss that two weights can, GIF the least gradient, PIF neither.

    The loss is quadratic: its gradient is linear in the step, so that one step with the right r and H is exact.
    """
    made, start, hessian, right = regression(decay)
    gradient = hessian @ start - right
    least_loss = torch.linalg.solve(hessian[:2, :2], -gradient[:2])
    least_gradient = torch.linalg.lstsq(hessian[:, :2], -gradient[:, None]).solution[:, 0]
    projected = torch.linalg.solve(hessian, -gradient)[:2]
    found = {make: moved(make, made, {"linear.weight": CHOSEN[None]}) for make in METHODS}
    for change in found.values():
        assert not change[2:].any()
    assert relative(found[FIF][:2], least_loss) < 1e-9
    assert relative(found[GIF][:2], least_gradient) < 1e-9
    assert relative(found[PIF][:2], projected) < 1e-9
    assert relative(found[GIF][:2], least_loss) > 0.05
    assert relative(found[PIF][:2], least_loss) > 0.1
    assert relative(found[FIF][:2], least_gradient) > 0.05
    assert relative(found[PIF][:2], least_gradient) > 0.1

    def loss(change):
        point = start + change
        return float(0.5 * point @ hessian @ point - right @ point)

    def slope(change):
        return float((hessian @ (start + change) - right).norm())

    assert loss(found[FIF]) < min(loss(found[GIF]), loss(found[PIF]), loss(torch.zeros(6)))
    assert slope(found[GIF]) < min(slope(found[FIF]), slope(found[PIF]), slope(torch.zeros(6)))


@methods
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_linear_regression_with_all_weights(make, decay):
    """Without frozen weights the three are one (eq. 7), and reach the minimum of what is left."""
    made, start, hessian, right = regression(decay)
    masks = {n: torch.ones_like(p, dtype=torch.bool) for n, p in made.model.named_parameters()}
    assert relative(start + moved(make, made, masks), torch.linalg.solve(hessian, right)) < 1e-9


# Networks


def odd_masks(model):
    generator = torch.Generator().manual_seed(3)
    return {n: torch.rand(p.shape, generator=generator) < 0.4 for n, p in model.named_parameters() if p.dim() > 1}


def dense_problem(made, removed):
    """H of what is left, the target gradient and r, all dense."""
    stays = [i for i in range(len(made.train)) if i not in removed]
    odds = len(removed) / len(stays)
    hessian = dense_hessian(made.model, made.loss, tensors(made.train.subset(stays)))
    hessian += made.weight_decay * (1 + odds) * torch.eye(len(hessian), dtype=hessian.dtype)
    return hessian, gradients(made.model, made.loss, made.train.subset(removed)).mean(0), odds


def flat(made, masks):
    zero = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in made.model.named_parameters()}
    return vector(zero | dict(masks))


def block_of(make, hessian, chosen):
    """A, and the right-hand side's rows."""
    if make is GIF:
        return hessian[:, chosen], torch.ones_like(chosen)
    if make is FIF:
        return hessian[chosen][:, chosen], chosen
    return hessian, torch.ones_like(chosen)


@methods
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_dense_formulas(make, damping):
    made, removed = small_study(1), [3, 5, 11, 20, 21, 22]
    masks = odd_masks(made.model)
    estimator = make(selector=masks, damping=damping, **CONVERGED).fit(made)
    change = estimator.parameter_change(removed)
    hessian, target, odds = dense_problem(made, removed)
    assert float(torch.linalg.eigvalsh(hessian)[0]) < -1e-3  # the method has to stand that
    chosen = flat(made, masks)
    matrix, rows = block_of(make, hessian, chosen)
    right = matrix.T @ target[rows]
    square = matrix.T @ matrix + damping**2 * torch.eye(matrix.shape[1], dtype=matrix.dtype)
    expected = odds * torch.linalg.solve(square, right)
    if make is PIF:
        expected = expected[chosen]
    parts = vector({n: change[n] for n, _ in made.model.named_parameters() if n in change})
    assert relative(parts[vector(masks)], expected) < 1e-6
    assert not parts[~vector(masks)].any()
    assert list(change) == list(masks)
    facts = change.meta
    assert facts["converged"]
    assert facts["residual"] < 1e-12
    assert facts["changed"] == int(chosen.sum())


def loud(outputs, labels):
    return 20 * ic.losses.cross_entropy(outputs, labels)


@methods
def test_the_series_is_the_literal_one(make):
    made, removed = small_study(1, loss=loud), [3, 5, 11]
    masks = odd_masks(made.model)
    hessian, target, odds = dense_problem(made, removed)
    chosen = flat(made, masks)
    matrix, rows = block_of(make, hessian, chosen)
    for step in (0.25, 2.0):
        options = {"solver": "neumann", "tolerance": 1e-4, "max_iterations": 30, "step": step, "scale": 1.0}
        estimator = make(selector=masks, **options).fit(made)
        change = estimator.parameter_change(removed)
        divisor = 1.0
        while True:
            scaled, start = matrix / divisor, matrix.T @ target[rows] / divisor**2
            terms, changes = [start], []
            while len(changes) < 30 and (not changes or changes[-1] > 1e-4 * math.sqrt(matrix.shape[1])):
                terms.append(start + terms[-1] - scaled.T @ (scaled @ terms[-1]))
                changes.append(float((terms[-1] - terms[-2]).norm()))
            grew = [i for i in range(2, len(changes), 2) if changes[i] > changes[i - 2]]
            if not grew:
                break
            divisor += step
        expected = odds * (terms[-1][chosen] if make is PIF else terms[-1])
        parts = vector({n: change[n] for n, _ in made.model.named_parameters() if n in change})
        assert relative(parts[vector(masks)], expected) < 1e-9
        assert change.meta["divisor"] == divisor
        assert change.meta["iterations"] == len(changes)
        assert divisor > float(torch.linalg.matrix_norm(matrix, 2)) / math.sqrt(2) - step
        assert divisor > 1


def test_a_truncated_series_is_too_short():
    """After j steps a singular value s is solved for as if M^2 / (j + 1) had been added to s^2."""
    values = torch.tensor([2.0, 0.1, 0.01], dtype=torch.float64)
    b = torch.ones(3, dtype=torch.float64)
    everything = torch.ones(3, dtype=torch.bool)
    found = solve_series(Columns(lambda v: v * values, everything), b, tolerance=0.0, max_iterations=100, step=0.5)
    exact = (1 - (1 - values.square() / found.divisor**2) ** 101) / values
    assert relative(found.x, exact) < 1e-12
    assert found.divisor == 1.5  # more than 2 / sqrt(2), in steps of a half
    assert not found.converged
    assert 100 < float(1 / values[2] / found.x[2]) < 300


def test_dividing_the_losses_changes_nothing():
    """Proposition 1: H/M and g/M have the same solution; the divisor that a series needs goes with H."""
    made = small_study(1)
    hessian, target, _ = dense_problem(made, [3, 5])
    chosen = flat(made, odd_masks(made.model))
    whole, part = (Columns(lambda v, m=m: v @ hessian / m, chosen) for m in (1.0, 5.0))
    a, b = (solve_lsqr(p, target / m, tolerance=1e-14, max_iterations=200).x for p, m in ((whole, 1.0), (part, 5.0)))
    assert relative(a, b) < 1e-8
    eight, one = (solve_series(Columns(lambda v, m=m: m * v, chosen), target).divisor for m in (8.0, 1.0))
    assert (eight, one) == (6.0, 1.0)


# Selectors


def literal_strengths(made, data, what):
    """Absolute mean of every unit's output or of its derivative, image by image."""
    found = {}
    for name in ("0", "4"):
        total, count = 0, 0
        for i in range(len(data)):
            kept = []
            handle = made.model.get_submodule(name).register_forward_hook(lambda m, i, o, k=kept: k.append(o))
            inputs, labels = data.batch([i])
            loss = made.loss(made.model(inputs), labels).sum()
            handle.remove()
            values = kept[0] if what == "top_outputs" else torch.autograd.grad(loss, kept[0])[0]
            values = values[0].reshape(values.shape[1], -1)
            total, count = total + values.sum(1), count + values.shape[1]
        found[name] = (total / count).abs().tolist()
    return found


@pytest.mark.parametrize("what", ["top_outputs", "top_gradients"])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0])
def test_top_selectors_are_the_literal_loop(what, ratio):
    made = study()
    data = made.train.subset([1, 4, 5, 9, 16])
    masks = choose(what, ratio, made.model, made.loss, data)
    assert list(masks) == [n for n, _ in made.model.named_parameters() if n in masks]
    order = [n for n, _ in made.model.named_parameters()]
    places = {n: p.numel() for n, p in made.model.named_parameters()}
    indices = flat(made, masks).nonzero().flatten().tolist()  # in the order of parameters()
    strengths = literal_strengths(made, data, what)
    expected, loose = set(), []
    for layer in ("0", "4"):
        weight, begin = dict(made.model.named_parameters())[f"{layer}.weight"], {}
        for name in (f"{layer}.weight", f"{layer}.bias"):
            begin[name] = sum(places[n] for n in order[: order.index(name)])
        incoming, units = weight[0].numel(), len(weight)
        left = int(ratio * (weight.numel() + units) + 1e-9)
        for unit in sorted(range(units), key=lambda u: -strengths[layer][u]):
            first = begin[f"{layer}.weight"] + unit * incoming
            if left >= incoming + 1:
                expected |= set(range(first, first + incoming)) | {begin[f"{layer}.bias"] + unit}
                left -= incoming + 1
            elif left:
                loose.append((set(range(first, first + incoming)), left))
                left = 0
    assert expected <= set(indices)
    rest = set(indices) - expected
    assert len(rest) == sum(count for _, count in loose)
    for pool, count in loose:
        assert len(rest & pool) == count
    assert not any(n.startswith("1.") for n in masks)  # batch normalisation


def test_threshold_and_random():
    made = study()
    data = made.train.subset([1, 4, 5, 9, 16])
    strengths = literal_strengths(made, data, "top_outputs")
    masks = choose("threshold", 0.3, made.model, made.loss, data, seed=1)
    for layer in ("0", "4"):
        incoming, units = made.model.get_submodule(layer).weight[0].numel(), len(strengths[layer])
        count, steps = int(0.3 * units * (incoming + 1) + 1e-9), 0
        while sum(s > 1 - 0.01 * steps for s in strengths[layer]) * (incoming + 1) < count:
            steps += 1  # every layer starts at 1
        above = torch.tensor([s > 1 - 0.01 * steps for s in strengths[layer]])
        weight, bias = masks[f"{layer}.weight"], masks.get(f"{layer}.bias", torch.zeros(units, dtype=torch.bool))
        assert int(weight.sum() + bias.sum()) == count
        assert not weight[~above].any()
        assert not bias[~above].any()
    counts = 0
    for seed in range(40):
        drawn = choose("random", 0.5, made.model, made.loss, data, seed=seed)
        assert int(drawn["0.weight"].sum()) + int(drawn.get("0.bias", torch.zeros(3)).sum()) == 15
        counts = counts + drawn["0.weight"].double()
    assert float(counts.min()) > 8
    assert float(counts.max()) < 32


@methods
@pytest.mark.parametrize("selector", ["top_outputs", "top_gradients", "threshold", "random"])
def test_an_edit_depends_on_no_batch_and_no_order(make, selector):
    made, removed = study(), [1, 4, 5, 9, 16]
    whole = make(selector=selector, scale=1.0).fit(made).parameter_change(removed)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    other = made.replaced(train=made.train.subset(order))
    places = [int((order == i).nonzero()) for i in removed]
    with ic.testing.batches_of(5):
        found = make(selector=selector, scale=1.0).fit(other).parameter_change(places)
    assert relative(vector(found), vector(whole)) < 1e-8
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in whole.items()}


# The scale


@pytest.mark.parametrize("task", ["some", "class"])
def test_the_scale_is_searched_literally(task):
    made = study(epochs=12)
    removed = [0, 1, 5, 8] if task == "some" else (made.train.labels == 2).nonzero().flatten().tolist()
    raw = GIF(ratio=0.5, scale=1.0).fit(made).parameter_change(removed)
    estimator = GIF(ratio=0.5).fit(made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change = estimator.parameter_change(removed)
    inputs, labels = made.validation.batch(range(len(made.validation)))
    known = torch.ones(len(labels), dtype=torch.bool) if task == "some" else labels != 2

    def judged(scale):
        model = made.edited({n: scale * c for n, c in raw.items()}).model
        own, given = made.train.batch(removed)
        kept = float((model(own).argmax(1) == given).double().mean())
        accuracy = float((model(inputs).argmax(1) == labels)[known].double().mean())
        return 2 * (1 - kept) * accuracy / (1 - kept + accuracy) if 1 - kept + accuracy else 0.0

    values = [judged(s) for s in SCALES]
    facts = change.meta
    assert facts["scale"] == SCALES[values.index(max(values))]
    assert facts["f1"] == pytest.approx(max(values))
    assert facts["f1_without_edit"] == pytest.approx(judged(0.0))
    assert len(set(values)) > 2
    assert relative(vector(change), facts["scale"] * vector(raw)) < 1e-12


def test_modified_f1():
    assert modified_f1(0.2, 0.9) == pytest.approx(2 * 0.8 * 0.9 / 1.7)
    assert modified_f1(1.0, 0.0) == 0


def test_a_test_set_is_never_looked_at():
    made = study()
    other = made.replaced(test=images(9, seed=77))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, two = (GIF().fit(s).parameter_change([0, 1]) for s in (made, other))
    assert relative(vector(two), vector(one)) < 1e-10


def test_frozen_parameters_are_left_alone():
    model = net()
    model[0].requires_grad_(False)
    made = ic.Study(model, images(24, seed=1, noise=0.25), images(9, seed=3), images(12, seed=2))
    for selector in ("top_outputs", "top_gradients", "random"):
        assert set(GIF(selector=selector, ratio=0.5, scale=1.0).fit(made).parameter_change([0, 3])) == {
            "4.weight",
            "4.bias",
        }
