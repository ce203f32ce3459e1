"""SAM's influence against retraining to SAM's own stationary point, numerical derivatives, and literal loops."""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.curvature import Ascent, operator
from influence_core.estimators import SAMGIF, SAMHIF, SAMIF, ConjugateGradient, TracIn
from tests.helpers import images, net
from tests.oracle.curvature_references import gradients, relative, restored, small_study, vector


@dataclass(frozen=True)
class Case:
    """A logistic regression: n images of d inputs, K classes."""

    n: int
    d: int
    classes: int
    rho: float
    decay: float
    seed: int


CASES = [
    Case(80, 5, 2, 0.05, 0.02, 0),
    Case(120, 5, 3, 0.05, 0.02, 1),
    Case(100, 4, 2, 0.10, 0.05, 2),
    Case(100, 6, 3, 0.10, 0.05, 3),
    Case(150, 5, 3, 0.10, 0.03, 4),
    Case(90, 8, 2, 0.20, 0.10, 5),
]
LEVERED = [Case(40, 5, 2, 0.05, 0.02, 0), Case(60, 5, 3, 0.05, 0.01, 1)]
"""Few images and little decay, so that one image moves the weights far: for the command alone."""
cases = pytest.mark.parametrize("case", CASES, ids=lambda c: f"rho{c.rho}-decay{c.decay}-K{c.classes}")


def data(count: int, case: Case, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(100 * case.seed + seed)
    inputs = torch.randn(count, case.d, generator=generator, dtype=torch.float64)
    noisy = inputs[:, : case.classes] + torch.randn(count, case.classes, generator=generator, dtype=torch.float64)
    return TensorDataset(inputs, noisy.argmax(1))


def ascent_of(g: Tensor, rho: float, p: float = 2.0) -> Tensor:
    """The paper's equation 6."""
    q = p / (p - 1)
    return rho * g.sign() * g.abs() ** (q - 1) / (g.abs() ** q).sum() ** (1 / p)


def slope(study: ic.Study, rho: float):
    """Row of weights, weight of each image -> what SAM training with them drives to zero; written for logits x W'."""
    inputs, labels = study.train.batch(range(len(study.train)))
    x = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=inputs.dtype)], 1)
    hits = torch.nn.functional.one_hot(labels, study.num_classes).to(x)

    def gradient(row: Tensor, shares: Tensor) -> Tensor:
        count = study.num_classes * inputs.shape[1]
        weights = torch.cat([row[:count].view(study.num_classes, -1), row[count:, None]], 1)
        change = (((x @ weights.T).softmax(1) - hits) * shares[:, None]).T @ x
        return torch.cat([change[:, :-1].flatten(), change[:, -1]])

    def of(row: Tensor, shares: Tensor) -> Tensor:
        return gradient(row + ascent_of(gradient(row, shares), rho), shares) + study.weight_decay * row

    return of


def stationary(of, start: Tensor, shares: Tensor) -> Tensor:
    """Newton's method for several weightings of the images at once, [R, P] from [P] and [R, N]."""
    residual, jacobian = torch.vmap(of), torch.vmap(torch.func.jacrev(of))
    rows = start.expand(len(shares), -1).clone()
    for _ in range(40):
        left = residual(rows, shares)
        if float(left.abs().max()) < 1e-15:
            break
        steps, size = torch.linalg.solve(jacobian(rows, shares), left), torch.ones(len(rows), 1, dtype=rows.dtype)
        for _ in range(10):  # half the steps that lead further away
            worse = residual(rows - size * steps, shares).norm(dim=1) > left.norm(dim=1)
            size[worse] /= 2
        rows = rows - size * steps
    assert float(torch.vmap(of)(rows, shares).abs().max()) < 1e-12
    return rows


def own(study: ic.Study) -> Tensor:
    return vector({n: p.detach() for n, p in study.model.named_parameters()})


@functools.cache
def trained(case: Case) -> ic.Study:
    """SAM on all images at once, then Newton steps to where it stands still; with a trajectory that tells rho."""
    torch.manual_seed(case.seed)
    train = data(case.n, case, 1)
    model = ic.models.build("mlp", inputs=case.d, classes=case.classes, hidden=1, depth=0).double()
    recipe = {"epochs": 200, "learning_rate": 0.5, "momentum": 0.9, "checkpoints": 1}
    trajectory = ic.training.fit(
        model, train, optimizer="sam", rho=case.rho, weight_decay=case.decay, batch_size=case.n, **recipe
    )
    parts = {"test": data(15, case, 2), "validation": data(15, case, 3), "trajectory": trajectory}
    study = ic.Study(model, train, weight_decay=case.decay, **parts)
    whole = torch.full((1, case.n), 1 / case.n, dtype=torch.float64)
    found = stationary(slope(study, case.rho), own(study), whole)[0]
    assert 0 < float((found - own(study)).norm()) < 0.2  # training was nearly there
    return study.edited(restored(found - own(study), study.model))


@functools.cache
def left_out(case: Case) -> Tensor:
    """True change of the weights without each image, [N, P]."""
    study = trained(case)
    shares = (1 - torch.eye(case.n, dtype=torch.float64)) / case.n
    return stationary(slope(study, case.rho), own(study), shares) - own(study)


def exact(cls, **parameters):
    settings = {"damping": 0.0, "tolerance": 1e-12, "curvature": "hessian"} | parameters
    return cls(**settings)


def quiet(estimator, study):
    """Fitted; these problems lie on both sides of the response at which a warning is due."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a change of the weights turns")
        return estimator.fit(study)


FULL, PAPER = partial(SAMHIF, max_response=1e9), partial(SAMHIF, variant="paper", max_response=1e9)
METHODS = {"full": FULL, "fast": SAMIF, "paper": PAPER}


@functools.cache
def errors(case: Case, most: int = 10) -> dict[str, float]:
    """Mean over about ``most`` images, evenly spaced, of the relative error of the predicted change of the weights."""
    study, some = trained(case), list(range(0, case.n, max(1, case.n // most)))
    true, found = left_out(case)[some], {}
    for name, cls in METHODS.items():
        estimator = quiet(exact(cls), study)
        rows = torch.stack([vector(estimator.parameter_change(k)) for k in some])
        found[name] = float(((rows - true).norm(dim=1) / true.norm(dim=1)).mean())
    return found


@cases
def test_the_full_formula_is_nearest_to_leaving_out(case):
    """Half a correction is worse than none: this is why "full" is the default."""
    found = errors(case)
    assert found["full"] < found["fast"] < found["paper"], found


def test_mean_error_of_the_edited_weights():
    mean = {name: sum(errors(case)[name] for case in CASES) / len(CASES) for name in METHODS}
    assert mean["full"] < 0.12, mean
    assert mean["full"] < 0.75 * mean["fast"], mean
    assert mean["fast"] < 0.5 * mean["paper"], mean


@cases
def test_influence_is_the_change_of_the_test_loss(case):
    """Of each image, in sign, order and size; with one solve for all test images."""
    study = trained(case)
    inputs, labels = study.test.batch(range(15))

    def losses(row: Tensor) -> Tensor:
        outputs = torch.func.functional_call(study.model, restored(row, study.model), (inputs,))
        return study.loss(outputs, labels)

    true = torch.stack([losses(own(study) + change) for change in left_out(case)]) - losses(own(study))
    scores = quiet(exact(FULL), study).influence()
    both = torch.stack([scores.values.flatten(), true.flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.98
    assert 0.85 < float((both[0] * both[1]).sum() / both[1].square().sum()) < 1.05
    assert scores.scale == "nats"
    assert (scores.meta["rho"], scores.meta["rho_from"]) == (case.rho, "trajectory")
    assert scores.meta["residual"] < 1e-9


@pytest.mark.parametrize("case", [CASES[1], CASES[5]], ids=["K3", "K2"])
def test_full_is_the_derivative_of_the_stationary_point(case):
    """By central differences, re-solved with L^k up-weighted by 1e-4 and down-weighted by it: to four digits."""
    study, step = trained(case), 1e-4
    estimators = {name: quiet(exact(cls), study) for name, cls in METHODS.items()}
    for k in (3, 40):
        shares = torch.full((2, case.n), 1 / case.n, dtype=torch.float64)
        shares[:, k] *= torch.tensor([1 + step, 1 - step], dtype=torch.float64)
        up, down = stationary(slope(study, case.rho), own(study), shares)
        change = -(up - down) / (2 * step)
        off = {name: relative(vector(e.parameter_change(k)), change) for name, e in estimators.items()}
        assert off["full"] < 1e-5, off
        assert min(off["fast"], off["paper"]) > 0.01, off


# Against autograd


def mean_loss_gradient(study):
    inputs, labels = study.train.batch(range(len(study.train)))

    def loss(row: Tensor) -> Tensor:
        return study.loss(torch.func.functional_call(study.model, restored(row, study.model), (inputs,)), labels).mean()

    return torch.func.grad(loss)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # which torch.func.jvp calls
@pytest.mark.parametrize("p", [2.0, 1.5])
def test_the_derivative_of_the_ascent(p):
    """C and its transpose against jvp and vjp of w -> ascent(gradient at w), for a network."""
    study = small_study(1)
    gradient, row = mean_loss_gradient(study), own(study)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, len(row), generator=generator, dtype=torch.float64)
    ascent = Ascent(gradient(row), 0.3, p)
    hessian = operator("hessian", study.model, study.loss, study.train)
    assert relative(ascent.step(), ascent_of(gradient(row), 0.3, p)) < 1e-12
    assert abs(float(torch.linalg.vector_norm(ascent.step(), ord=p)) - 0.3) < 1e-12

    def of(w: Tensor) -> Tensor:
        return ascent_of(gradient(w), 0.3, p)

    forward = torch.stack([torch.func.jvp(of, (row,), (v,))[1] for v in vectors])
    backward = torch.stack([torch.func.vjp(of, row)[1](v)[0] for v in vectors])
    assert relative(ascent.derivative(hessian(vectors)), forward) < 1e-9
    assert relative(hessian(ascent.derivative(vectors)), backward) < 1e-9
    dense = ascent.derivative(torch.eye(len(row), dtype=torch.float64))
    assert float(torch.linalg.eigvalsh(dense)[-1]) <= ascent.response * (1 + 1e-9)


def test_the_ascent_of_the_maximum_norm():
    g = torch.tensor([0.5, -2.0, 0.0], dtype=torch.float64)
    ascent = Ascent(g, 0.1, math.inf)
    assert ascent.step().tolist() == [0.1, -0.1, 0.0]
    assert not ascent.derivative(torch.eye(3, dtype=torch.float64)).any()
    still = Ascent(torch.zeros(3), 0.1)
    assert not still.step().any()
    assert not still.derivative(torch.eye(3)).any()


@pytest.mark.parametrize("variant", ["full", "paper"])
@pytest.mark.parametrize("p", [2.0, 1.5, math.inf])
def test_dense_matrices_of_a_network(variant, p):
    """Scores and edits against A and b made whole: A is the Jacobian of what training drives to zero."""
    study, rho = small_study(1, weight_decay=0.3), 0.2
    gradient, row = mean_loss_gradient(study), own(study)
    q = 1.0 if math.isinf(p) else p / (p - 1)
    estimator = exact(SAMHIF, rho=rho, p=p, variant=variant, damping=5.0, max_response=1e9)
    estimator = quiet(estimator, study)
    shift = estimator.inverse_.damping * torch.eye(len(row), dtype=torch.float64)

    def climb(w: Tensor) -> Tensor:
        g = gradient(w)
        return rho * g.sign() if q == 1.0 else ascent_of(g, rho, p)

    moved = study.edited(restored(climb(row), study.model))
    sharp = torch.func.jacrev(gradient)(row + climb(row))
    turned = torch.func.jacrev(climb)(row)
    right = gradients(moved.model, study.loss, study.train)
    if variant == "full":
        matrix = torch.func.jacrev(lambda w: gradient(w + climb(w)) + 0.3 * w)(row) + shift
        by_gradient = (
            torch.zeros_like(sharp) if q == 1.0 else torch.func.jacrev(lambda g: ascent_of(g, rho, p))(gradient(row))
        )
        right = right + gradients(study.model, study.loss, study.train) @ by_gradient.T @ sharp.T
    else:
        identity = torch.eye(len(row), dtype=torch.float64)
        matrix = (sharp + 0.3 * identity + shift) @ (identity + turned)
    changes = torch.linalg.solve(matrix, right.T).T / len(right)
    expected = changes @ gradients(study.model, study.loss, study.test).T
    assert relative(estimator.influence().values, expected) < 1e-8
    assert relative(vector(estimator.parameter_change([2, 9, 4])), changes[[2, 9, 4]].sum(0)) < 1e-8
    clean = gradients(study.model, study.loss, study.validation).mean(0)
    assert relative(estimator.mislabel_scores().values, -(changes @ clean)) < 1e-8


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
@pytest.mark.parametrize("cls", [SAMIF, SAMHIF, PAPER], ids=["fast", "full", "paper"])
def test_scores_are_gradients_times_edits(cls, curvature):
    """The adjoint solve and the direct one agree."""
    study = small_study(1)
    estimator = quiet(exact(cls, rho=0.1, damping=30.0, curvature=curvature), study)
    test = gradients(study.model, study.loss, study.test)
    for ids in ([4], [2, 7, 11]):
        expected = test @ vector(estimator.parameter_change(ids))
        assert relative(estimator.influence().values[ids].sum(0), expected) < 1e-8


def test_samif_is_the_dense_inverse_at_the_perturbed_weights():
    study, rho = small_study(1), 0.2
    gradient, row = mean_loss_gradient(study), own(study)
    estimator = exact(SAMIF, rho=rho, damping=30.0).fit(study)
    moved = row + ascent_of(gradient(row), rho)
    shift = (0.03 + estimator.inverse_.damping) * torch.eye(len(row), dtype=torch.float64)
    matrix = torch.func.jacrev(gradient)(moved) + shift
    rows = gradients(study.edited(restored(moved - row, study.model)).model, study.loss, study.train)
    changes = torch.linalg.solve(matrix, rows.T).T / len(rows)
    expected = changes @ gradients(study.model, study.loss, study.test).T
    assert relative(estimator.influence().values, expected) < 1e-8
    assert relative(estimator.influence().values, ConjugateGradient(damping=0.0).fit(study).influence().values) > 0.01


@pytest.mark.parametrize("cls", [SAMIF, SAMHIF])
def test_without_a_radius_they_are_influence_functions(cls):
    study = small_study(1)
    expected = ConjugateGradient(tolerance=1e-12).fit(study)
    found = cls(rho=0.0, tolerance=1e-12).fit(study)
    assert relative(found.influence().values, expected.influence().values) < 1e-9
    assert relative(vector(found.parameter_change([1, 5])), vector(expected.parameter_change([1, 5]))) < 1e-9


# Along the trajectory


def literal_trajectory(study, form, queries, momentum, decay, last, rho=None):
    """[N, M] and the change of the weights by all images, by loops over checkpoints, batches and images."""
    checkpoints = list(study.trajectory)[-last:]
    count, total, change = len(study.train), 0.0, 0.0
    inputs, labels = study.train.batch(range(count))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    batches = [torch.arange(count)] if form == "gd" else list(order.split(8))
    for c, checkpoint in enumerate(checkpoints):
        model = study.at(checkpoint)
        later = sum(other.learning_rate_sum for other in checkpoints[c + 1 :])
        weight = checkpoint.learning_rate_sum / (1 - momentum) / count
        weight *= math.exp(-study.weight_decay * later / (1 - momentum)) if decay else 1.0
        rows = torch.zeros(count, len(own(study)), dtype=torch.float64)
        for batch in batches:
            value = study.loss(model(inputs[batch]), labels[batch]).mean()
            g = torch.autograd.grad(value, list(model.parameters()))
            norm = sum(float(part.square().sum()) for part in g) ** 0.5
            at = study.at(checkpoint)
            with torch.no_grad():
                for parameter, part in zip(at.parameters(), g, strict=True):
                    parameter += (checkpoint.rho if rho is None else rho) * part / norm
            rows[batch] = gradients(at, study.loss, study.train)[batch]
        test = gradients(study.model if queries == "final" else model, study.loss, study.test)
        total = total + weight * rows @ test.T
        change = change + weight * rows
    return total, change


@functools.cache
def network() -> ic.Study:
    """With batch normalisation, trained by SAM on batches of 8 with momentum 0.9; every checkpoint has its own rho."""
    train, model = images(24, seed=1, noise=0.25), net()
    settings = {"epochs": 4, "batch_size": 8, "learning_rate": 0.05, "weight_decay": 0.05, "checkpoints": 4}
    trajectory = ic.training.fit(model, train, optimizer="sam", rho=0.2, **settings)
    own_radii = [replace(c, rho=rho) for c, rho in zip(trajectory, (0.2, 0.1, 0.3, 0.05), strict=True)]
    trajectory = ic.training.Trajectory(own_radii, trajectory.recipe)
    parts = {"test": images(9, seed=3), "validation": images(12, seed=2), "trajectory": trajectory}
    return ic.Study(model, train, **parts)


@pytest.mark.parametrize(
    ("settings", "literal"),
    [
        ({}, ("gd", "final", 0.9, True, 4)),
        ({"form": "sgd", "queries": "checkpoint"}, ("sgd", "checkpoint", 0.9, True, 4)),
        ({"momentum": 0.0, "decay": False, "last": 2, "rho": 0.05}, ("gd", "final", 0.0, False, 2, 0.05)),
    ],
    ids=["gd", "sgd", "options"],
)
def test_trajectory_against_a_loop(settings, literal):
    study = network()
    estimator = SAMGIF(**settings).fit(study)
    influence, change = literal_trajectory(study, *literal)
    assert relative(estimator.influence().values, influence) < 1e-10
    assert relative(estimator.influence([5, 0]).values, influence[:, [5, 0]]) < 1e-10
    assert relative(vector(estimator.parameter_change([3, 20, 8])), change[[3, 20, 8]].sum(0)) < 1e-10
    if settings.get("queries") != "checkpoint":
        clean = gradients(study.model, study.loss, study.validation).mean(0)
        assert relative(estimator.mislabel_scores().values, -(change @ clean)) < 1e-10


def test_without_a_radius_it_is_tracin_with_the_sums_of_the_rates():
    study = network()
    rates = [c.learning_rate_sum for c in study.trajectory]
    expected = 0.0
    for rate, checkpoint in zip(rates, study.trajectory, strict=True):
        one = study.replaced(trajectory=ic.training.Trajectory([checkpoint]))
        expected = expected + rate * TracIn(weights="equal").fit(one).influence().values / 24
    plain = SAMGIF(rho=0.0, momentum=0.0, decay=False, queries="checkpoint").fit(study)
    assert relative(plain.influence().values, expected) < 1e-10


def test_decay_is_the_product_over_small_steps():
    """exp(-sum) for the product of (1 - rate x decay) over the steps that follow."""
    study = network()
    last = list(study.trajectory)[-1]
    steps = last.step - list(study.trajectory)[-2].step
    product = (1 - study.weight_decay * last.learning_rate_sum / steps / 0.1) ** steps
    kept, free = (SAMGIF(last=2, decay=decay).fit(study).weights_ for decay in (True, False))
    assert abs(kept[0] / free[0] - product) < 1e-4
    assert kept[1] == free[1]
    assert product < 0.999


@functools.cache
def unrolled(steps: int, rate: float) -> tuple[ic.Study, Tensor]:
    """Logistic regression after so many steps of SAM on all images, and the true [N, M] without each image."""
    case = CASES[1]
    torch.manual_seed(0)
    train = data(40, case, 1)
    model = ic.models.build("mlp", inputs=5, classes=3, hidden=1, depth=0).double()
    start = vector({n: p.detach().clone() for n, p in model.named_parameters()})
    recipe = {"epochs": steps, "learning_rate": rate, "momentum": 0.0, "checkpoints": steps, "batch_size": 40}
    trajectory = ic.training.fit(model, train, optimizer="sam", rho=0.05, weight_decay=0.02, **recipe)
    study = ic.Study(model, train, data(15, case, 2), trajectory=trajectory, weight_decay=0.02)
    of, shares = slope(study, 0.05), torch.cat([torch.ones(1, 40), 1 - torch.eye(40)]).double() / 40
    rows = start.expand(41, -1)
    for step in range(steps):
        rows = rows - rate * ic.training.cosine(step / steps) * torch.vmap(of)(rows, shares)
    assert relative(rows[0], own(study)) < 1e-9
    losses = torch.stack([study.edited(restored(row - own(study), model)).losses() for row in rows])
    return study, losses[1:] - losses[0]


@pytest.mark.parametrize(("steps", "rate", "least", "most"), [(10, 0.05, 0.98, 1.05), (100, 0.5, 0.8, 8.0)])
def test_trajectory_against_unrolled_training(steps, rate, least, most):
    """Short training: exact in size. Long training: right in order, and too large, as nothing contracts."""
    study, true = unrolled(steps, rate)
    found = SAMGIF().fit(study).influence().values
    assert float(torch.corrcoef(torch.stack([found.flatten(), true.flatten()]))[0, 1]) > least
    size = float((found * true).sum() / true.square().sum())
    assert 0.95 < size < most


if __name__ == "__main__":
    for case in CASES + LEVERED:
        e = quiet(exact(SAMHIF), trained(case))
        found = errors(case, case.n)  # every image is left out
        print(case, {k: round(v, 4) for k, v in found.items()}, "response", round(e.response_, 2), flush=True)
    means = {name: round(sum(errors(case, case.n)[name] for case in CASES) / len(CASES), 4) for name in METHODS}
    print(f"mean of the first {len(CASES)}", means)
    for steps, rate in [(10, 0.05), (100, 0.5)]:
        study, true = unrolled(steps, rate)
        found = SAMGIF().fit(study).influence().values
        print(
            steps,
            rate,
            float(torch.corrcoef(torch.stack([found.flatten(), true.flatten()]))[0, 1]),
            float((found * true).sum() / true.square().sum()),
        )
