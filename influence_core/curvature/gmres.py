"""GMRES: for matrices that need not be symmetric."""

from __future__ import annotations

import torch
from torch import Tensor

from influence_core.curvature.solution import Product, Solution, check_system, norms_of, tiny
from influence_core.curvature.vectors import orthogonalised
from influence_core.errors import InvalidInput


def gmres(
    product: Product, b: Tensor, *, tolerance: float = 1e-5, max_iterations: int = 1000, restart: int = 50
) -> Solution:
    """Restarted GMRES for any regular matrix, symmetric or not (Saad and Schultz 1986).

    Every column has a Krylov space of its own, orthogonalised twice; the products are made for all columns at once. The
    small least-squares problems are solved in float64.

    Args:
        product: the matrix.
        b: Right-hand sides, ``[R, P]``.
        tolerance: on the relative residual.
        max_iterations: in all.
        restart: dimension of the Krylov spaces; memory is this times the size of ``b``.

    Returns:
        The solution; ``negative_curvature`` is False throughout.

    Raises:
        InvalidInput: If ``restart`` is less than 1.
    """
    check_system(b, tolerance, max_iterations)
    if restart < 1:
        raise InvalidInput(f"restart is {restart}; the Krylov space needs at least 1 dimension")
    x, norms = torch.zeros_like(b), norms_of(b)
    floor = norms.clamp_min(tiny(norms))
    residual, used = b.clone(), 0
    relative = norms_of(residual) / floor
    while used < max_iterations and bool((relative > tolerance).any()):
        open_ = (relative > tolerance).nonzero().flatten()
        most = min(restart, max_iterations - used)
        update, steps = _gmres_cycle(product, residual[open_], tolerance * norms[open_], most)
        x[open_] += update
        used += steps
        before, residual = relative, b - product(x)
        relative = norms_of(residual) / floor
        if bool((relative[open_] > 0.999 * before[open_]).all()):
            break  # nothing more can be had in this precision or at this restart length
    return Solution(x, relative, used, relative <= tolerance, torch.zeros_like(relative, dtype=torch.bool))


def _gmres_cycle(product: Product, r: Tensor, targets: Tensor, most: int) -> tuple[Tensor, int]:
    """The best update from a Krylov space of at most so many dimensions, and how many it took."""
    columns, beta = len(r), norms_of(r)
    basis = r.new_empty(columns, most + 1, r.shape[1])
    basis[:, 0] = r / beta[:, None].to(r)
    hessenberg = torch.zeros(columns, most + 1, most, dtype=torch.float64, device=r.device)
    first = torch.zeros(columns, most + 1, 1, dtype=torch.float64, device=r.device)
    first[:, 0, 0] = beta
    steps = 0
    for j in range(most):
        w = product(basis[:, j])
        scale = norms_of(w)
        for i in range(columns):
            hessenberg[i, : j + 1, j], w[i] = orthogonalised(w[i], basis[i, : j + 1])
        length = norms_of(w)
        fresh = length > 10 * torch.finfo(r.dtype).eps * scale  # else the space is invariant and holds the solution
        hessenberg[:, j + 1, j] = torch.where(fresh, length, torch.zeros_like(length))
        unit = w / torch.where(fresh, length, torch.ones_like(length))[:, None].to(w)
        basis[:, j + 1] = torch.where(fresh[:, None], unit, torch.zeros_like(w))
        steps = j + 1
        coefficients = _least_squares(hessenberg[:, : steps + 1, :steps], first[:, : steps + 1])
        left = (first[:, : steps + 1] - hessenberg[:, : steps + 1, :steps] @ coefficients)[:, :, 0].norm(dim=1)
        if bool((left <= targets).all()) or not bool(fresh.any()):
            break
    return (coefficients[:, :, 0].to(r)[:, None] @ basis[:, :steps])[:, 0], steps


def _least_squares(matrices: Tensor, right: Tensor) -> Tensor:
    """Minimum-norm solutions, also where a column's space stopped growing."""
    inverse: Tensor = torch.linalg.pinv(matrices, rtol=1e-14)
    return inverse @ right
