"""The damped Neumann series, which LiSSA sums."""

from __future__ import annotations

import torch
from torch import Tensor

from influence_core.curvature.solution import Product, Solution, check_system, norms_of, tiny
from influence_core.errors import InvalidInput


def neumann(
    product: Product,
    b: Tensor,
    *,
    scale: float,
    tolerance: float = 1e-5,
    max_iterations: int = 1000,
    growth: float = 1e3,
    preconditioner: Product | None = None,
) -> Solution:
    r"""The damped Neumann series :math:`x_{j+1} = x_j + M (b - A x_j) / s`, which LiSSA sums with M = I.

    For a symmetric matrix it converges if and only if all eigenvalues lie between 0 and 2 s. After J steps an
    eigenvalue is inverted as if about :math:`s / (J + 1)` had been added to it.

    Args:
        product: the matrix, damping included.
        b: Right-hand sides, ``[R, P]``.
        scale: s; ``1.2 * largest_eigenvalue(...)`` is safe.
        tolerance: on the relative residual.
        max_iterations: J.
        growth: a residual so many times the right-hand side is divergence.
        preconditioner: an approximate inverse M, symmetric and positive definite; s is then that of M A.

    Returns:
        The solution so far; a series that is merely slow is no error, its residual says so.

    Raises:
        InvalidInput: If the scale is not positive, or the series diverges.
    """
    check_system(b, tolerance, max_iterations)
    if not scale > 0:
        raise InvalidInput(f"the scale of the Neumann series is {scale}; it must lie above half the largest eigenvalue")
    x, norms = torch.zeros_like(b), norms_of(b)
    floor = norms.clamp_min(tiny(norms))
    residual, used = b.clone(), 0
    relative = norms_of(residual) / floor
    while used < max_iterations and bool((relative > tolerance).any()):
        x += (residual if preconditioner is None else preconditioner(residual)) / scale
        residual = b - product(x)
        relative = norms_of(residual) / floor
        used += 1
        worst = float(relative.max())
        if not worst < growth:
            raise InvalidInput(
                f"the Neumann series diverges: after {used} steps the residual is {worst:.3g} times the right-hand "
                "side. The matrix has an eigenvalue below 0 (raise the damping, or take the Gauss-Newton matrix "
                f"instead of the Hessian) or above {2 * scale:.3g} (raise the scale)"
            )
    return Solution(x, relative, used, relative <= tolerance, torch.zeros_like(relative, dtype=torch.bool))
