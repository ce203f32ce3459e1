"""Wrong numbers that packages for influence functions have been seen to give, each shown to be absent here.

Every test has a reference of its own, batches of one by plain autograd or dense matrices, and most show first that the
bug would be seen: that it changes the numbers on the very problem that is looked at.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.curvature import KFAC, Hessian, conjugate_gradient
from influence_core.curvature.inverses import KroneckerInverse
from influence_core.errors import InvalidInput
from influence_core.estimators import DataInf, Estimator
from influence_core.gradients import inner_products, mean_gradient, per_sample_gradients
from influence_core.losses import cross_entropy
from tests.cases import Twice
from tests.estimator_settings import own_estimators, quick
from tests.helpers import study
from tests.references import assert_close, flat, one_by_one

DOUBLE = torch.float64
DAMPING = 0.1


def points(count: int, *shape: int, classes: int = 3, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, *shape, generator=generator, dtype=DOUBLE)
    return TensorDataset(inputs, torch.randint(0, classes, (count,), generator=generator))


def made(*layers: nn.Module, seed: int = 0) -> nn.Module:
    """The layers with weights from a seed."""
    model = nn.Sequential(*layers).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=DOUBLE))
    return model


def regression(count: int = 24) -> ic.Study:
    """Logistic regression, so that the Hessian is positive semi-definite; most batches do not have its rank."""
    return ic.Study(made(nn.Linear(4, 3)), points(count, 4), points(5, 4, seed=1), weight_decay=0.01)


def dense_hessian(model: nn.Module, data: TensorDataset) -> Tensor:
    """Of the mean loss of a linear layer."""
    inputs, labels = data.tensors
    shapes = dict(model.named_parameters())
    start = torch.cat([p.detach().flatten() for p in shapes.values()])

    def mean(row: Tensor) -> Tensor:
        parts = row.split([p.numel() for p in shapes.values()])
        state = {name: part.view_as(p) for (name, p), part in zip(shapes.items(), parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, state, (inputs,)), labels)

    return torch.autograd.functional.hessian(mean, start)


# --- Batches


def test_the_inverse_is_that_of_the_whole_matrix_and_no_sum_over_batches():
    small = regression()
    data = small.train.base
    shift = 0.05 * torch.eye(15, dtype=DOUBLE)
    right = flat(one_by_one(small.model, cross_entropy, small.test.base.tensors))
    expected = torch.linalg.solve(dense_hessian(small.model, data) + shift, right.T).T
    parts = [TensorDataset(*data[i : i + 4]) for i in range(0, 24, 4)]
    summed = sum(torch.linalg.solve(dense_hessian(small.model, part) + shift, right.T).T for part in parts)
    assert (summed - expected).norm() > expected.norm()  # what batches of 4 would give
    for size in (1, 4, 7, 24):
        operator = Hessian(small.model, cross_entropy, data, damping=0.05, batch_size=size)
        assert_close(conjugate_gradient(operator, right, tolerance=1e-13).x, expected, 1e-10)


METHODS = ("influence", "self_influence")
GIVEN = [(cls, method) for cls in own_estimators() for method in METHODS if method in cls.gives()]


@pytest.mark.parametrize(("cls", "method"), GIVEN, ids=[f"{cls.name} {method}" for cls, method in GIVEN])
def test_no_score_depends_on_batches(cls: type[Estimator], method: str):
    small = study()
    scores = []
    for size in (5, 24):
        with ic.testing.batches_of(size):
            scores.append(getattr(quick(cls)().fit(small), method)().values)
    assert_close(*scores, 1e-7)


def test_gradients_are_as_large_in_any_batch():
    model, data = made(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), points(10, 4)
    expected = one_by_one(model, cross_entropy, data.tensors)
    assert any((gradients != 0).any() for gradients in expected.values())
    for size in (1, 3, 10):
        found = per_sample_gradients(model, cross_entropy, data, batch_size=size)
        means = mean_gradient(model, cross_entropy, data, batch_size=size)
        for name, gradients in expected.items():
            assert_close(found[name], gradients)
            assert_close(means[name], gradients.mean(0))


@pytest.mark.parametrize("draw", ["sampled", "exact", "empirical"])
def test_kronecker_factors_are_as_large_in_any_batch(draw):
    model, data = made(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), points(10, 4)
    first, *others = (KFAC.fit(model, cross_entropy, data, draw=draw, batch_size=size) for size in (10, 1, 3))
    for other in others:
        for name in first.bases:
            assert_close(other.dense(name), first.dense(name))
            assert_close(other.dense(name, corrected=False), first.dense(name, corrected=False))


# --- Kronecker factors


def chosen_gradient(outputs: Tensor, labels: Tensor) -> Tensor:
    """A loss that is linear in the outputs: the label alone decides its gradient there."""
    outputs = outputs.flatten(1)
    table = torch.randn(4, outputs.shape[1], generator=torch.Generator().manual_seed(5), dtype=DOUBLE)
    return (outputs * table[labels]).sum(1)


def grid(*shape: int, inputs: int = 7) -> TensorDataset:
    """Every input with every label: inputs and output gradients are independent, so that K-FAC is exact."""
    values = torch.randn(inputs, *shape, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    return TensorDataset(values.repeat_interleave(4, 0), torch.arange(4).repeat(inputs))


def blocks(model: nn.Module, fisher: Tensor, groups: int) -> Tensor:
    """The Fisher matrix without what is between groups of output channels."""
    owner = torch.cat(
        [torch.arange(p.shape[0]).view(-1, *[1] * (p.dim() - 1)).expand_as(p).flatten() for p in model.parameters()]
    )
    owner = owner * groups // (int(owner.max()) + 1)
    return fisher * (owner[:, None] == owner[None, :])


EXACT = {
    "linear": (lambda: nn.Linear(4, 3), (4,), 1),
    "linear without bias": (lambda: nn.Linear(4, 3, bias=False), (4,), 1),
    "convolution": (lambda: nn.Conv2d(2, 3, 3), (2, 3, 3), 1),
    "convolution with groups": (lambda: nn.Conv2d(4, 6, 2, groups=2), (4, 2, 2), 2),
    "convolution with groups, without bias": (lambda: nn.Conv2d(4, 6, 2, groups=2, bias=False), (4, 2, 2), 2),
    "depthwise convolution": (lambda: nn.Conv2d(4, 4, 2, groups=4), (4, 2, 2), 4),
}


@pytest.mark.parametrize("corrected", [True, False], ids=["ekfac", "kfac"])
@pytest.mark.parametrize("name", EXACT)
def test_weights_and_biases_keep_their_places(name, corrected):
    """Also that a layer without bias is taken for one, and that groups are neither mixed nor averaged."""
    build, shape, groups = EXACT[name]
    model, data = made(build(), nn.Flatten()), grid(*shape)
    gradients = flat(one_by_one(model, chosen_gradient, data.tensors))
    fisher = blocks(model, gradients.T @ gradients / len(gradients), groups)
    size = len(fisher)
    right = torch.randn(3, size, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    kfac = KFAC.fit(model, chosen_gradient, data, draw="empirical")
    found = KroneckerInverse.of(kfac, 0.0, weight_decay=0.3, corrected=corrected)
    parameters = dict(model.named_parameters())
    parts = right.split([p.numel() for p in parameters.values()], dim=1)
    vectors = {n: part.reshape(3, *p.shape) for (n, p), part in zip(parameters.items(), parts, strict=True)}
    expected = torch.linalg.solve(fisher + 0.3 * torch.eye(size, dtype=DOUBLE), right.T).T
    assert (expected - right / 0.3).norm() > 0.1 * expected.norm()  # the Fisher matrix matters
    assert_close(flat(found.apply(vectors).vectors), expected)


def test_eigenvectors_are_columns():
    """The factor is diagonal in its eigenbasis as Q'AQ; with Q and Q' exchanged it is far from it."""
    model, data = made(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), points(20, 4)
    hidden = torch.tanh(model[0](data.tensors[0])).detach()
    logits = model(data.tensors[0]).detach()
    delta = logits.softmax(1) - F.one_hot(data.tensors[1], 3)
    sides = {"inputs": torch.cat([hidden, torch.ones(20, 1, dtype=DOUBLE)], dim=1), "outputs": delta}
    basis = KFAC.fit(model, cross_entropy, data, draw="empirical").bases["2.weight"]
    for side, rows in sides.items():
        q, moments = getattr(basis, side)[0], rows.T @ rows / 20
        assert off_diagonal(q.T @ moments @ q) < 1e-12
        assert off_diagonal(q @ moments @ q.T) > 0.1


def off_diagonal(matrix: Tensor) -> float:
    return float((matrix - matrix.diag().diag()).norm() / matrix.norm())


# --- A module used twice


def test_every_use_of_a_shared_module_counts():
    model = made(Twice(nn.Linear(4, 4)))
    train, test = points(9, 4, classes=4), points(3, 4, classes=4, seed=1)
    left, right = (one_by_one(model, cross_entropy, data.tensors) for data in (train, test))
    last = one_by_one(LastUse(model[0].layer), cross_entropy, train.tensors)
    assert (flat(last) - flat(left)).norm() > 0.1 * flat(left).norm()  # what the last use alone would give
    assert_close(inner_products(model, cross_entropy, train, test), flat(left) @ flat(right).T)


class LastUse(nn.Module):
    """``Twice``, seen from its last use."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x).detach()))


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_the_eigenbasis_of_a_shared_module_is_that_of_all_uses(kind):
    if kind == "linear":
        model, data = made(Twice(nn.Linear(4, 4))), points(20, 4, classes=4)
    else:
        model, data = made(Twice(nn.Conv2d(2, 2, 3, padding=1)), nn.Flatten()), points(20, 2, 3, 3, classes=4)
    inputs = data.tensors[0]
    moments = []
    for x in (inputs, torch.tanh(model[0].layer(inputs)).detach()):
        rows = x if kind == "linear" else F.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)
        rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=DOUBLE)], dim=1)
        moments.append(rows.T @ rows)
    q = KFAC.fit(model, cross_entropy, data, draw="empirical").bases["0.layer.weight"].inputs[0]
    assert off_diagonal(q.T @ sum(moments) @ q) < 1e-12
    assert min(off_diagonal(q.T @ part @ q) for part in moments) > 0.01


SHARED = {
    "linear": (Twice(nn.Linear(4, 4)), (4,)),
    "linear without bias": (Twice(nn.Linear(4, 4, bias=False)), (4,)),
    "linear on sequences": (nn.Sequential(Twice(nn.Linear(4, 2 * 2)), nn.Flatten(), nn.Linear(12, 4)), (3, 4)),
    "convolution": (nn.Sequential(Twice(nn.Conv2d(2, 2, 3, padding=1)), nn.Flatten(), nn.Linear(18, 4)), (2, 3, 3)),
    "convolution with groups": (
        nn.Sequential(Twice(nn.Conv2d(4, 4, 3, padding=1, groups=2)), nn.Flatten(), nn.Linear(36, 4)),
        (4, 3, 3),
    ),
}


@pytest.mark.parametrize("name", SHARED)
def test_ekfac_sums_the_uses_of_a_module_before_squaring(name):
    """Its eigenvalues are second moments of the whole gradient, and its self-influence the diagonal of influence."""
    module, shape = SHARED[name]
    model, data = made(module), points(12, *shape, classes=4)
    small = ic.Study(model, data, data, weight_decay=0.01)
    gradients = one_by_one(model, cross_entropy, data.tensors)
    estimator = ic.estimators.EKFAC(labels="empirical", damping=DAMPING).fit(small)
    solved = torch.zeros(12, dtype=DOUBLE)
    kfac = KFAC.fit(model, cross_entropy, data, draw="empirical")
    for layer in kfac.layers:
        basis = kfac.bases[layer.weight]
        weight = gradients[layer.weight].reshape(12, layer.groups, layer.height, -1)
        if layer.bias is not None:
            column = gradients[layer.bias].reshape(12, layer.groups, layer.height, 1)
            weight = torch.cat([weight, column], dim=3)
        rotated = torch.einsum("gcd,ngck,gkj->ngdj", basis.outputs, weight, basis.inputs)
        values = rotated.square().mean(0)
        assert_close(basis.corrected, values)
        solved += (rotated.square() / (values + DAMPING * values.mean() + 0.01)).sum((1, 2, 3)) / 12
    assert {n for layer in kfac.layers for n in layer.names} == set(gradients)
    assert_close(estimator.self_influence().values, solved)
    assert_close(estimator.influence().values.diagonal(), solved)


# --- Solvers


@pytest.mark.parametrize("restarts", [1, 50])
def test_conjugate_gradients_stop_once_converged(restarts):
    """The identity is solved in one step and a zero in none; 0 / 0 must not follow, however often one may go on."""
    right = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    right[1] = 0
    found = conjugate_gradient(lambda rows: rows, right, tolerance=0.0, max_iterations=restarts)
    assert torch.equal(found.x, right)
    assert found.iterations == 1
    assert bool(found.converged.all())
    assert bool((found.residuals == 0).all())


def test_conjugate_gradients_honour_the_tolerance():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(100, 100, generator=generator, dtype=DOUBLE)
    matrix = root @ root.T + 5 * torch.eye(100, dtype=DOUBLE)  # none takes the 100 steps that end it in any case
    right = torch.randn(2, 100, generator=generator, dtype=DOUBLE)
    steps = []
    for tolerance in (1e-1, 1e-4, 1e-10):
        found = conjugate_gradient(lambda rows: rows @ matrix, right, tolerance=tolerance)
        true = (right - found.x @ matrix).norm(dim=1) / right.norm(dim=1)
        assert bool((true <= tolerance).all())
        assert torch.allclose(found.residuals, true, rtol=1e-6, atol=1e-14)
        steps.append(found.iterations)
    assert steps[0] < steps[1] < steps[2]


def test_influence_by_conjugate_gradients_is_finite_at_a_solution_of_one_step():
    """Damping so large that the matrix is a multiple of the identity to rounding."""
    small = regression()
    estimator = ic.estimators.ConjugateGradient(damping=1e12, tolerance=1e-9).fit(small)
    values = estimator.influence().values
    left, right = (one_by_one(small.model, cross_entropy, d.base.tensors) for d in (small.train, small.test))
    assert_close(values * estimator.inverse_.damping, flat(left) @ flat(right).T / 24, 1e-8)


# --- Singular matrices and NaN


@pytest.mark.parametrize("damping", [0.0, 1e-9])
def test_directions_without_any_gradient_count_as_zero(damping):
    """One pixel is the sum of two others, so the factors are singular; to rounding only, which 1 / x would blow up."""
    model, data = made(nn.Linear(4, 4)), grid(4)
    data.tensors[0][:, 2] = data.tensors[0][:, 0] + data.tensors[0][:, 1]
    test = points(3, 4, classes=4, seed=1)
    left, right = (flat(one_by_one(model, chosen_gradient, d.tensors)) for d in (data, test))
    fisher = left.T @ left / len(left)
    assert int(torch.linalg.matrix_rank(fisher)) < len(fisher)
    estimator = ic.estimators.EKFAC(labels="empirical", damping=damping).fit(
        ic.Study(model, data, test, loss=chosen_gradient)
    )
    inverse = torch.linalg.pinv(fisher, rtol=1e-10) / len(left)
    assert_close(estimator.influence().values, left @ inverse @ right.T, 1e-6)
    assert_close(estimator.self_influence().values, (left @ inverse * left).sum(1), 1e-6)


def test_repeated_images_leave_trak_finite():
    """All training images are one: the matrix of their features has rank one."""
    small = study()
    one = small.train.batch([0] * 24)
    for damping in (0.1, 1e-6):
        values = ic.estimators.TRAK(dim=16, damping=damping).fit(small.replaced(train=TensorDataset(*one))).influence()
        assert bool(values.values.isfinite().all())
        assert_close(values.values, values.values[:1].expand_as(values.values), 1e-6)


def test_a_layer_whose_moments_are_not_finite_is_named():
    """Weights, images and outputs are all finite: only the squares are not."""
    model, data = made(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), points(10, 4)
    data.tensors[0][3, 1] = 1e200
    assert bool(model(data.tensors[0]).isfinite().all())
    with pytest.raises(InvalidInput, match=r"inputs of layer '0'"):
        KFAC.fit(model, cross_entropy, data)


@pytest.mark.parametrize("cls", own_estimators(), ids=lambda cls: cls.__name__)
def test_the_weight_that_is_nan_is_named(cls: type[Estimator]):
    small = study()
    with torch.no_grad():
        small.model[4].weight[1, 7] = torch.nan
    with pytest.raises(InvalidInput, match=r"4\.weight"):
        quick(cls)().fit(small)


# --- Removing


def test_a_training_image_is_removed_once():
    small = regression()
    estimator = DataInf().fit(small)
    with pytest.raises(InvalidInput, match="twice"):
        estimator.parameter_change(remove=[3, 5, 3])
    pair, one, other = (estimator.parameter_change(remove=ids)["0.weight"] for ids in ([3, 5], [3], [5]))
    assert_close(pair, one + other)
    assert (one - other).norm() > 0.1 * one.norm()


def test_the_images_that_were_asked_for_are_left_out_in_that_order():
    small = regression(6)
    kept: list[list[int]] = []

    def retrain(_: ic.Study, ids: Tensor, seed: int) -> nn.Module:
        kept.append(ids.tolist())
        model = made(nn.Linear(4, 3))
        with torch.no_grad():
            model[0].bias[0] += float(ids.sum())
        return model

    scores = ic.evaluation.leave_one_out(small, [4, 1], None, retrain)
    assert kept == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 5], [0, 2, 3, 4, 5]]
    assert scores.train_ids.tolist() == [4, 1]
    whole, without = (made(nn.Linear(4, 3)).requires_grad_(False) for _ in range(2))
    whole[0].bias[0] += 15.0
    inputs, labels = small.test.base.tensors
    for row, missing in zip(scores.values, (4, 1), strict=True):
        without[0].bias.copy_(whole[0].bias)
        without[0].bias[0] -= missing
        assert_close(row, cross_entropy(without(inputs), labels) - cross_entropy(whole(inputs), labels))
