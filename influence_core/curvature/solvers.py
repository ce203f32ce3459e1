"""Solvers of ``A x = b`` for several right-hand sides at once, with a stopping rule and a residual that is reported.

Each column stops on its own, by its own residual relative to its right-hand side. What is reported is the true residual
``||b - A x|| / ||b||``, computed at the end from x and not from the recursion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from influence_core.curvature.vectors import orthogonalised
from influence_core.errors import InvalidInput

Product = Callable[[Tensor], Tensor]
"""``[R, P] -> [R, P]``: the matrix times R vectors."""


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes:
        x: ``[R, P]``.
        residuals: True relative residuals, float64 ``[R]``.
        iterations: Products with the matrix that were made for the column that took longest.
        converged: Which columns met the tolerance, boolean ``[R]``.
        negative_curvature: Which columns stopped since the matrix curves down along a direction, boolean ``[R]``; x is
            then the iterate before that direction.
    """

    x: Tensor
    residuals: Tensor
    iterations: int
    converged: Tensor
    negative_curvature: Tensor


def gmres(
    product: Product, b: Tensor, *, tolerance: float = 1e-5, max_iterations: int = 1000, restart: int = 50
) -> Solution:
    """Restarted GMRES for any regular matrix, symmetric or not (Saad and Schultz 1986).

    Every column has a Krylov space of its own, orthogonalised twice; the products are made for all columns at once. The
    small least-squares problems are solved in float64.

    Args:
        product: The matrix.
        b: Right-hand sides, ``[R, P]``.
        tolerance: On the relative residual.
        max_iterations: In all.
        restart: Dimension of the Krylov spaces; memory is this times the size of ``b``.

    Returns:
        The solution; ``negative_curvature`` is False throughout.

    Raises:
        InvalidInput: If ``restart`` is less than 1.
    """
    _check(b, tolerance, max_iterations)
    if restart < 1:
        raise InvalidInput(f"restart is {restart}; the Krylov space needs at least 1 dimension")
    x, norms = torch.zeros_like(b), _norms(b)
    floor = norms.clamp_min(_tiny(norms))
    residual, used = b.clone(), 0
    relative = _norms(residual) / floor
    while used < max_iterations and bool((relative > tolerance).any()):
        open_ = (relative > tolerance).nonzero().flatten()
        most = min(restart, max_iterations - used)
        update, steps = _gmres_cycle(product, residual[open_], tolerance * norms[open_], most)
        x[open_] += update
        used += steps
        before, residual = relative, b - product(x)
        relative = _norms(residual) / floor
        if bool((relative[open_] > 0.999 * before[open_]).all()):
            break  # nothing more can be had in this precision or at this restart length
    return Solution(x, relative, used, relative <= tolerance, torch.zeros_like(relative, dtype=torch.bool))


def _gmres_cycle(product: Product, r: Tensor, targets: Tensor, most: int) -> tuple[Tensor, int]:
    """The best update from a Krylov space of at most so many dimensions, and how many it took."""
    columns, beta = len(r), _norms(r)
    basis = r.new_empty(columns, most + 1, r.shape[1])
    basis[:, 0] = r / beta[:, None].to(r)
    hessenberg = torch.zeros(columns, most + 1, most, dtype=torch.float64, device=r.device)
    first = torch.zeros(columns, most + 1, 1, dtype=torch.float64, device=r.device)
    first[:, 0, 0] = beta
    steps = 0
    for j in range(most):
        w = product(basis[:, j])
        scale = _norms(w)
        for i in range(columns):
            hessenberg[i, : j + 1, j], w[i] = orthogonalised(w[i], basis[i, : j + 1])
        length = _norms(w)
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


def neumann(
    product: Product,
    b: Tensor,
    *,
    scale: float,
    tolerance: float = 1e-5,
    max_iterations: int = 1000,
    growth: float = 1e3,
) -> Solution:
    r"""The damped Neumann series :math:`x_{j+1} = x_j + (b - A x_j) / s`, which LiSSA sums.

    For a symmetric matrix it converges if and only if all eigenvalues lie between 0 and 2 s. After J steps an
    eigenvalue is inverted as if about :math:`s / (J + 1)` had been added to it.

    Args:
        product: The matrix, damping included.
        b: Right-hand sides, ``[R, P]``.
        scale: s; ``1.2 * largest_eigenvalue(...)`` is safe.
        tolerance: On the relative residual.
        max_iterations: J.
        growth: A residual so many times the right-hand side is divergence.

    Returns:
        The solution so far; a series that is merely slow is no error, its residual says so.

    Raises:
        InvalidInput: If the scale is not positive, or the series diverges.
    """
    _check(b, tolerance, max_iterations)
    if not scale > 0:
        raise InvalidInput(f"the scale of the Neumann series is {scale}; it must lie above half the largest eigenvalue")
    x, norms = torch.zeros_like(b), _norms(b)
    floor = norms.clamp_min(_tiny(norms))
    residual, used = b.clone(), 0
    relative = _norms(residual) / floor
    while used < max_iterations and bool((relative > tolerance).any()):
        x += residual / scale
        residual = b - product(x)
        relative = _norms(residual) / floor
        used += 1
        worst = float(relative.max())
        if not worst < growth:
            raise InvalidInput(
                f"the Neumann series diverges: after {used} steps the residual is {worst:.3g} times the right-hand "
                "side. The matrix has an eigenvalue below 0 (raise the damping, or take the Gauss-Newton matrix "
                f"instead of the Hessian) or above {2 * scale:.3g} (raise the scale)"
            )
    return Solution(x, relative, used, relative <= tolerance, torch.zeros_like(relative, dtype=torch.bool))


def _check(b: Tensor, tolerance: float, max_iterations: int) -> None:
    if b.dim() != 2:
        raise InvalidInput(f"the right-hand sides have shape {tuple(b.shape)}, expected [R, P]")
    if not bool(torch.isfinite(b).all()):
        raise InvalidInput("a right-hand side holds NaN or infinity: look at the model's weights and the data")
    if tolerance < 0 or max_iterations < 1:
        raise InvalidInput(
            f"tolerance={tolerance}, max_iterations={max_iterations}: a tolerance of 0 or more and at least one "
            "iteration are needed"
        )


def _norms(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms


def _tiny(norms: Tensor) -> float:
    return torch.finfo(norms.dtype).tiny
