"""One Krylov space for many shifts, against dense solutions and conjugate gradients."""

from __future__ import annotations

import pytest
import torch

from influence_core.curvature.conjugate import conjugate_gradient
from influence_core.curvature.shifted import ShiftedSystems
from influence_core.errors import InvalidInput
from tests.oracle.curvature_references import relative


def matrix(size: int, dtype: torch.dtype, least: float = 1e-3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    return ((q * torch.logspace(2, torch.tensor(least).log10().item(), size, dtype=torch.float64)) @ q.T).to(dtype)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-9), (torch.float32, 2e-4)])
@pytest.mark.parametrize("length", [1e-12, 1.0, 1e12])
def test_every_shift_is_solved(dtype, error, length):
    a = matrix(80, dtype)
    b = length * torch.randn(1, 80, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    systems = ShiftedSystems(lambda rows: rows @ a, b, 80)
    used = []
    for shift in (10.0, 1.0, 0.1, 3.0):
        found = systems.solve(shift, error / 10)
        whole = a.double() + shift * torch.eye(80, dtype=torch.float64)
        exact = torch.linalg.solve(whole, b[0].double())
        assert relative(found.x.double(), exact) < error
        assert found.quadratic == pytest.approx(float(exact @ a.double() @ exact), rel=10 * error)
        assert found.linear == pytest.approx(float(exact @ b[0].double()), rel=10 * error)
        left = b[0].double() - whole @ found.x.double()
        assert float(left.norm() / b.double().norm()) < max(2 * found.residual, error)
        assert not found.negative
        used.append(systems.products)
    assert used[0] < used[2]
    assert used[2] == used[3]  # a shift that is easier than one before makes no product


def test_it_takes_the_products_of_its_hardest_shift_alone():
    a, count = matrix(300, torch.float64), [0]

    def product(rows):
        count[0] += len(rows)
        return rows @ a

    b = torch.randn(1, 300, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    shifts, alone = (30.0, 10.0, 3.0, 1.0), []
    for shift in shifts:
        count[0] = 0
        solved = conjugate_gradient(lambda rows, s=shift: product(rows) + s * rows, b, tolerance=1e-3)
        assert solved.converged.all()
        alone.append(count[0])
    count[0] = 0
    systems = ShiftedSystems(product, b, 300)
    for shift in shifts:
        assert systems.solve(shift, 1e-3).residual <= 1e-3
    assert count[0] == systems.products <= max(alone)
    assert sum(alone) > 2 * count[0]


def test_negative_curvature_is_told():
    a = torch.diag(torch.tensor([3.0, 1.0, -0.5], dtype=torch.float64))
    systems = ShiftedSystems(lambda rows: rows @ a, torch.ones(1, 3, dtype=torch.float64), 3)
    assert not systems.solve(1.0, 1e-12).negative
    assert systems.solve(0.2, 1e-12).negative


def test_an_invariant_space_ends():
    """b is a sum of two eigenvectors: two products tell everything, whatever the tolerance."""
    a = torch.diag(torch.tensor([2.0, 5.0, 7.0, 9.0], dtype=torch.float64))
    b = torch.tensor([[1.0, 0.0, 3.0, 0.0]], dtype=torch.float64)
    systems = ShiftedSystems(lambda rows: rows @ a, b, 4)
    torch.testing.assert_close(systems.solve(0.5, 0.0).x, b[0] / torch.tensor([2.5, 5.5, 7.5, 9.5]))
    assert systems.products == 2


def test_a_full_memory_gives_what_it_has():
    a = matrix(100, torch.float64)
    b = torch.randn(1, 100, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    systems = ShiftedSystems(lambda rows: rows @ a, b, 5)
    found = systems.solve(1e-3, 1e-12)
    assert systems.products == 5
    assert found.residual > 1e-12
    krylov = torch.stack([b[0] @ torch.linalg.matrix_power(a, k) for k in range(5)])
    q = torch.linalg.qr(krylov.T)[0].T
    inside = q @ (a + 1e-3 * torch.eye(100, dtype=torch.float64)) @ q.T
    torch.testing.assert_close(found.x, torch.linalg.solve(inside, q @ b[0]) @ q, rtol=1e-5, atol=1e-8)


def test_a_product_that_is_no_number_is_told():
    systems = ShiftedSystems(lambda rows: rows * torch.nan, torch.ones(1, 3), 3)
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        systems.solve(1.0, 1e-3)
