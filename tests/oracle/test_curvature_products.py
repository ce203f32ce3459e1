"""Products and solvers against dense float64 matrices."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import influence_core as ic
from influence_core.curvature import (
    Fisher,
    GaussNewton,
    Hessian,
    at_outputs,
    conjugate_gradient,
    flatten,
    gmres,
    kept,
    lanczos,
    largest_eigenvalue,
    mean_diagonal,
    neumann,
    unflatten,
)
from influence_core.errors import InvalidInput
from influence_core.losses import cross_entropy
from tests.helpers import images, net
from tests.oracle.curvature_references import dense_ggn, dense_hessian, gradients, mlp, points, relative, squared

DATA = points(30, 1)
losses = pytest.mark.parametrize("loss", [cross_entropy, squared])


@losses
@pytest.mark.parametrize("depth", [0, 1])
def test_dense_matrices(loss, depth):
    model = mlp(depth)
    hessian, ggn = dense_hessian(model, loss, DATA), dense_ggn(model, loss, DATA)
    assert relative(Hessian(model, loss, DATA).dense(), hessian) < 1e-12
    assert relative(GaussNewton(model, loss, DATA).dense(), ggn) < 1e-12
    assert (relative(ggn, hessian) < 1e-12) == (depth == 0)  # equal where outputs are linear in the weights, else not


def bent(outputs, labels):
    """A loss that is not convex in the outputs."""
    return (outputs[torch.arange(len(labels)), labels] - 1).square() + outputs.sin().sum(1)


@pytest.mark.parametrize("loss", [cross_entropy, squared, bent])
@pytest.mark.parametrize("what", ["jacobians", "matrix", "stream"])
def test_what_is_kept_changes_no_product(loss, what, monkeypatch):
    monkeypatch.setattr(kept, "DENSE", 10**6 if what == "matrix" else 0)
    model, rows = mlp(1), torch.randn(5, sum(p.numel() for p in mlp(1).parameters()), dtype=torch.float64)
    for matrix in (
        GaussNewton(model, loss, DATA, weight_decay=0.1, damping=0.2),
        Fisher(model, loss, DATA, draw="exact", damping=0.3),
        Fisher(model, loss, DATA, draw="sampled", seed=2),
        GaussNewton(model, loss, DATA, parameters=["1.weight"]),
    ):
        held = matrix.kept(memory_mib=0 if what == "stream" else 64)
        expected = matrix(rows[:, : matrix.size])
        assert relative(held(rows[:, : matrix.size]), expected) < 1e-12
        assert relative(held.damped(0.7)(rows[:, : matrix.size]), matrix.damped(0.7)(rows[:, : matrix.size])) < 1e-12
        assert (held is matrix) == (what == "stream")
        assert matrix._kept is None  # the one that was asked stays as it is
        if what == "jacobians":
            assert held._kept.jacobians.shape == (30, 3, matrix.size)
        passes = []
        monkeypatch.setattr(type(matrix), "_products", lambda *_, passes=passes: passes.append(1) or iter(()))
        held(rows[:, : matrix.size])
        assert bool(passes) == (what == "stream")
        monkeypatch.undo()
        monkeypatch.setattr(kept, "DENSE", 10**6 if what == "matrix" else 0)


def test_a_matrix_is_kept_where_jacobians_do_not_fit(monkeypatch):
    model = mlp(1)
    monkeypatch.setattr(kept, "DENSE", 0)
    monkeypatch.setattr(kept, "KEPT_MIB", 0.01)  # some samples at a time
    size = sum(p.numel() for p in model.parameters())
    room = 8 * size * size / 2**20
    held = GaussNewton(model, cross_entropy, DATA).kept(memory_mib=room * 1.01)
    assert held._kept.matrix.shape == (size, size)
    assert relative(held.dense(), dense_ggn(model, cross_entropy, DATA)) < 1e-12


@losses
def test_fisher_matrices(loss):
    model = mlp(1)
    ggn, g = dense_ggn(model, loss, DATA), gradients(model, loss, DATA)
    assert relative(Fisher(model, loss, DATA, draw="exact").dense(), ggn) < 1e-12
    assert relative(Fisher(model, loss, DATA, draw="empirical").dense(), g.T @ g / len(g)) < 1e-12
    drawn = [Fisher(model, loss, DATA, draw="sampled", seed=seed).dense() for seed in range(100)]
    assert relative(torch.stack(drawn).mean(0), ggn) < 0.12  # 100 x 30 draws
    assert relative(drawn[0], ggn) > 0.12
    assert torch.equal(
        Fisher(model, loss, DATA, seed=3, batch_size=4).dense().round(decimals=10), drawn[3].round(decimals=10)
    )


@losses
def test_draws_belong_to_samples_and_not_to_their_places(loss):
    model, order = mlp(1), torch.randperm(30, generator=torch.Generator().manual_seed(0))
    (drawn,), inputs, labels = at_outputs(model, loss, DATA), *DATA.tensors
    (again,) = at_outputs(model, loss, (inputs[order], labels[order]))
    assert torch.allclose(again, drawn[order], atol=1e-14)
    assert not torch.allclose(at_outputs(model, loss, DATA, seed=1)[0], drawn, atol=0.1)


def test_shifts_are_added_once_and_damping_needs_no_new_operator():
    model = mlp(1)
    plain = Hessian(model, cross_entropy, DATA).dense()
    shifted = Hessian(model, cross_entropy, DATA, weight_decay=0.3, damping=0.2)
    eye = torch.eye(len(plain), dtype=plain.dtype)
    assert relative(shifted.dense(), plain + 0.5 * eye) < 1e-12
    assert relative(shifted.damped(0.1).dense(), plain + 0.4 * eye) < 1e-12
    assert shifted.damping == 0.2


@pytest.mark.parametrize("kind", [Hessian, GaussNewton, Fisher])
def test_batches_do_not_matter(kind):
    data, model = images(23, seed=1), net()
    one, seven = (kind(model, cross_entropy, data, batch_size=size) for size in (1, 7))
    rows = torch.randn(3, one.size, dtype=torch.float64)
    assert relative(one(rows), seven(rows)) < 1e-10
    assert relative(one(rows), kind(model, cross_entropy, data)(rows)) < 1e-10
    assert relative(one(rows)[1:2], one(rows[1:2])) < 1e-10


def test_parameters_can_be_chosen():
    model = mlp(1)
    names = [n for n, _ in model.named_parameters()][2:]
    chosen = GaussNewton(model, cross_entropy, DATA, parameters=names)
    whole = GaussNewton(model, cross_entropy, DATA)
    start = whole.size - chosen.size
    assert relative(chosen.dense(), whole.dense()[start:, start:]) < 1e-12
    mask = {names[0]: torch.tensor([[True, False, True, False]]).expand(3, 4)}
    with pytest.raises(InvalidInput, match="mask"):
        GaussNewton(model, cross_entropy, DATA, parameters=mask)


def test_mean_diagonal(monkeypatch):
    model = mlp(1)
    exact = float(dense_ggn(model, cross_entropy, DATA).diagonal().mean())
    assert abs(mean_diagonal(model, cross_entropy, DATA) / exact - 1) < 1e-12
    monkeypatch.setattr("influence_core.curvature.operators.EXACT_OUTPUTS", 2)
    found = [mean_diagonal(model, cross_entropy, DATA, seed=seed) for seed in range(100)]
    assert len(set(found)) > 90
    assert abs(sum(found) / 100 / exact - 1) < 0.05
    with pytest.raises(InvalidInput, match="curvature is zero"):
        mean_diagonal(nn.Sequential(model, Constant()), cross_entropy, DATA)


class Constant(nn.Module):
    def forward(self, x):
        return 0.0 * x


@pytest.fixture
def system():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(20, 20, generator=generator, dtype=torch.float64)
    return root @ root.T + 0.5 * torch.eye(20).double(), torch.randn(5, 20, generator=generator, dtype=torch.float64)


def test_symmetric_solvers(system):
    a, b = system
    b[2] = 0
    expected = torch.linalg.solve(a, b.T).T
    scale = 1.2 * largest_eigenvalue(lambda r: r @ a, 20, like=b)
    for found in (
        conjugate_gradient(lambda r: r @ a, b, tolerance=1e-10),
        conjugate_gradient(lambda r: r @ a, b, tolerance=1e-10, preconditioner=lambda r: r / a.diagonal()),
        gmres(lambda r: r @ a, b, tolerance=1e-10),
        neumann(lambda r: r @ a, b, tolerance=1e-10, scale=scale, max_iterations=20000),
    ):
        assert relative(found.x, expected) < 1e-8
        assert found.converged.all()
        true = (b - found.x @ a).norm(dim=1) / b.norm(dim=1).clamp_min(1e-300)
        assert torch.allclose(found.residuals, true, atol=1e-14)


def test_residuals_are_true_where_iterations_run_out(system):
    a, b = system
    for found in (
        conjugate_gradient(lambda r: r @ a, b, max_iterations=4),
        gmres(lambda r: r @ a, b, max_iterations=4),
        neumann(lambda r: r @ a, b, max_iterations=4, scale=200.0),
    ):
        assert found.iterations == 4
        assert not found.converged.any()
        assert torch.allclose(found.residuals, (b - found.x @ a).norm(dim=1) / b.norm(dim=1))
        assert (found.residuals > 1e-4).all()


@pytest.mark.parametrize("restart", [20, 8])
def test_gmres_on_a_matrix_that_is_not_symmetric(system, restart):
    _, b = system
    a = (
        torch.randn(20, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        + 7 * torch.eye(20).double()
    )
    found = gmres(lambda r: r @ a.T, b, tolerance=1e-11, restart=restart)
    assert relative(found.x, torch.linalg.solve(a, b.T).T) < 1e-9
    assert found.converged.all()
    wrong = conjugate_gradient(lambda r: r @ a.T, b, tolerance=1e-11)
    assert not (wrong.converged & (wrong.residuals < 1e-11)).all()


def test_gmres_where_the_space_stops_growing():
    a = torch.diag(torch.tensor([2.0, 2.0, 2.0, 5.0], dtype=torch.float64))
    b = torch.tensor([[1.0, 0, 0, 0], [1.0, 2.0, 0, 3.0]], dtype=torch.float64)
    found = gmres(lambda r: r @ a, b, tolerance=1e-13)
    assert relative(found.x, b / a.diagonal()) < 1e-12
    assert found.iterations <= 3


def test_negative_curvature_is_reported_and_divergence_refused(system):
    a, b = system
    a = a - 2.0 * torch.eye(20).double()
    found = conjugate_gradient(lambda r: r @ a, b, tolerance=1e-10)
    assert found.negative_curvature.all()
    assert not found.converged.any()
    with pytest.raises(InvalidInput, match=r"diverges.*below 0"):
        neumann(lambda r: r @ a, b, scale=100.0, max_iterations=5000)
    with pytest.raises(InvalidInput, match="diverges"):
        neumann(lambda r: r @ system[0], b, scale=1.0)
    with pytest.raises(InvalidInput, match="NaN"):
        conjugate_gradient(lambda r: r @ a, b / 0.0)


def test_lanczos(system):
    a, _ = system
    whole = lanczos(lambda r: r @ a, 20, 20, like=a)
    assert torch.allclose(whole.values, torch.linalg.eigvalsh(a).flip(0), rtol=1e-10)
    assert relative(whole.vectors @ whole.vectors.T, torch.eye(20).double()) < 1e-12
    assert relative((whole.vectors.T * whole.values) @ whole.vectors, a) < 1e-10
    part = lanczos(lambda r: r @ a, 20, 12, like=a)
    true = (part.vectors @ a - part.values[:, None] * part.vectors).norm(dim=1)
    assert torch.allclose(part.residuals, true, atol=1e-9)
    assert abs(largest_eigenvalue(lambda r: r @ a, 20, like=a, steps=100) / float(whole.values[0]) - 1) < 1e-6


def test_lanczos_goes_on_where_eigenvalues_repeat():
    values = torch.tensor([3.0, 3.0, 3.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    found = lanczos(lambda r: r * values, 6, 6, like=values)
    assert torch.allclose(found.values, values, atol=1e-12)
    assert relative((found.vectors.T * found.values) @ found.vectors, torch.diag(values)) < 1e-12


def test_vectors():
    shapes = {"a": (2, 3), "b": (4,)}
    rows = torch.randn(5, 10)
    assert torch.equal(flatten(dict(reversed(unflatten(rows, shapes).items())), shapes), rows)
    with pytest.raises(InvalidInput, match="expected"):
        flatten({"a": torch.zeros(5, 2, 3)}, shapes)
    with pytest.raises(InvalidInput, match=r"\[R, 10\]"):
        unflatten(torch.zeros(5, 9), shapes)


class Tempered(nn.Module):
    """Logits times a number that is learnt, as CLIP's."""

    def __init__(self, shape):
        super().__init__()
        self.model, self.scale = mlp(1), nn.Parameter(torch.full(shape, 0.7, dtype=torch.float64))

    def forward(self, inputs):
        return self.model(inputs) * self.scale


@pytest.mark.parametrize("name", ["conjugategradient", "lissa", "samif", "samhif", "arnoldi", "datainf", "gif"])
def test_a_parameter_without_axes_is_one_number(name):
    found = []
    for shape in ((), (1,)):
        study = ic.Study(Tempered(shape), DATA, points(6, 2), points(6, 3), weight_decay=0.1)
        estimator = ic.estimators.get(name).fit(study)
        moved = estimator.parameter_change([0, 3]) if "parameter_change" in estimator.gives() else {}
        one = [moved[key].flatten() for key in sorted(moved)]
        one += [estimator.influence().values.flatten()] if "influence" in estimator.gives() else []
        one += [estimator.self_influence().values] if "self_influence" in estimator.gives() else []
        found.append(torch.cat([part.double() for part in one]))
    assert len(found[0])
    assert relative(*found) < 1e-9
