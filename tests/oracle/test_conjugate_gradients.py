"""Conjugate gradients in float32 against the fewest steps that any method of their kind can take."""

from __future__ import annotations

import pytest
import torch

from influence_core.curvature import conjugate, conjugate_gradient, gmres
from influence_core.curvature.vectors import orthogonalised
from influence_core.errors import InvalidInput
from tests.oracle.curvature_references import relative

SIZE = 300
TOLERANCE = 1e-3


class Counted:
    """A matrix with a few large eigenvalues above many at 1, as a damped curvature has; it counts its products."""

    def __init__(self, dtype: torch.dtype, scales: torch.Tensor | None = None, bulk: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(0)
        basis = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)).Q
        values = bulk + 1e4 * 0.8 ** torch.arange(SIZE, dtype=torch.float64)
        dense = (basis * values) @ basis.T
        self.b = torch.randn(3, SIZE, generator=generator, dtype=torch.float64)
        if scales is not None:
            dense, self.b = dense * scales * scales[:, None], self.b * scales
        self.exact = torch.linalg.solve(dense, self.b.T).T
        self.dense, self.b = dense.to(dtype), self.b.to(dtype)
        self.products: list[int] = []

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        self.products.append(len(rows))
        return torch.stack([row @ self.dense for row in rows])


def fewest() -> int:
    """Steps of GMRES without a restart, in float64: its residual is the least of all in the same Krylov space."""
    matrix = Counted(torch.float64)
    return gmres(matrix, matrix.b, tolerance=TOLERANCE, restart=SIZE).iterations


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_large_eigenvalue_is_found_once(dtype):
    """Recursions alone take 146 products in float32 and 78 in float64."""
    matrix = Counted(dtype)
    found = conjugate_gradient(matrix, matrix.b, tolerance=TOLERANCE)
    assert found.converged.all()
    assert found.iterations <= fewest() + 2 <= 42
    assert relative(found.x.double(), matrix.exact) < 0.01


def test_with_a_preconditioner_the_residuals_are_orthogonal_in_its_inner_product():
    """Scaling by D and preconditioning by 1/D^2 is the same iteration as without either."""
    scales = torch.logspace(-1, 1, SIZE, dtype=torch.float64)
    matrix = Counted(torch.float32, scales)
    found = conjugate_gradient(
        matrix, matrix.b, tolerance=TOLERANCE, preconditioner=lambda rows: rows / scales.float().square()
    )
    assert found.converged.all()
    assert found.iterations <= fewest() + 4
    assert relative(found.x.double() * scales, matrix.exact * scales) < 0.02
    with pytest.raises(InvalidInput, match="preconditioner"):
        conjugate_gradient(matrix, matrix.b, preconditioner=lambda rows: -rows)


def test_what_is_taken_off_the_residuals_is_put_into_x(monkeypatch):
    """Else the residual of x has it: not that of the recursion, but the true one."""

    def shares():
        """Of the true residual, what lies in the space of the first thirty products."""
        matrix = Counted(torch.float32)
        found = conjugate_gradient(matrix, matrix.b, tolerance=5e-4, max_iterations=40)
        assert len(matrix.products) == found.iterations + 1  # one round, and the product that shows the true residual
        dense = matrix.dense.double()
        for b, x in zip(matrix.b.double(), found.x.double(), strict=True):
            space = [b / b.norm()]
            while len(space) < 30:
                left = orthogonalised(dense @ space[-1], torch.stack(space))[1]
                space.append(left / left.norm())
            residual = b - dense @ x
            yield float((torch.stack(space) @ residual).norm() / residual.norm())

    put = list(shares())
    missing = conjugate._Kept.missing
    monkeypatch.setattr(conjugate._Kept, "missing", lambda self: torch.zeros_like(missing(self)))
    left_out = list(shares())
    assert max(put) < 0.6
    assert sum(put) < 0.7 * sum(left_out)  # by how much depends on the machine's rounding


def test_each_right_hand_side_goes_its_own_way():
    matrix = Counted(torch.float32)
    matrix.b[1] = matrix.b[1].sign() @ matrix.dense  # another number of steps
    matrix.b[2] = 0
    together = conjugate_gradient(matrix, matrix.b, tolerance=TOLERANCE)
    alone = [conjugate_gradient(matrix, row[None], tolerance=TOLERANCE) for row in matrix.b]
    assert len({one.iterations for one in alone}) == 3
    assert together.iterations == max(one.iterations for one in alone)
    for i, one in enumerate(alone):
        assert torch.allclose(one.x[0], together.x[i], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("fits", "at_once", "steps"), [(64 * 3, 3, 42), (64 * 2, 2, 42), (64, 1, 42), (25, 1, 80)])
def test_memory_bounds_what_is_kept_and_how_many_are_solved_for_at_once(monkeypatch, fits, at_once, steps):
    matrix = Counted(torch.float32)
    monkeypatch.setattr(conjugate, "BASIS_MIB", fits * SIZE * 4 / 2**20)
    found = conjugate_gradient(matrix, matrix.b, tolerance=TOLERANCE)
    assert max(matrix.products) == at_once
    assert found.converged.all()
    assert found.iterations <= steps
    assert relative(found.x.double(), matrix.exact) < 0.01


def test_without_memory_there_are_still_conjugate_gradients(monkeypatch):
    matrix = Counted(torch.float32)
    monkeypatch.setattr(conjugate, "BASIS_MIB", 0.0)
    found = conjugate_gradient(matrix, matrix.b, tolerance=TOLERANCE)
    assert found.converged.all()
    assert found.iterations > 2 * fewest()
    assert relative(found.x.double(), matrix.exact) < 0.01


def test_a_tolerance_out_of_reach_ends():
    """Below rounding a recursion would go on for ever, with a residual that means nothing."""
    matrix = Counted(torch.float32)
    found = conjugate_gradient(matrix, matrix.b, tolerance=0.0, max_iterations=10_000)
    assert not found.converged.any()
    assert (found.residuals < 1e-3).all()
    assert found.iterations < 1000


@pytest.mark.parametrize("length", [1e-30, 1e-22, 1e30])
def test_the_length_of_a_right_hand_side_changes_nothing(length):
    """Gradients of images that a model is all but certain of: their products are none of float32."""
    matrix = Counted(torch.float32)
    exponents = torch.tensor([1.0, length, 1.0]).log2().round().exp2()[:, None]
    found = conjugate_gradient(matrix, matrix.b * exponents, tolerance=TOLERANCE)
    expected = conjugate_gradient(matrix, matrix.b, tolerance=TOLERANCE)
    assert not found.negative_curvature.any()
    assert found.iterations == expected.iterations
    assert torch.equal(found.x / exponents, expected.x)
