"""Solvers of ``A x = b`` for several right-hand sides at once, with a stopping rule and a residual that is reported.

Each column stops on its own, by its own residual relative to its right-hand side. What is reported is the true residual
``||b - A x|| / ||b||``, computed at the end from x and not from the recursion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from influence_core.errors import InvalidInput

Product = Callable[[Tensor], Tensor]
"""``[R, P] -> [R, P]``: the matrix times R vectors."""


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes:
        x: ``[R, P]``.
        residuals: true relative residuals, float64 ``[R]``.
        iterations: products with the matrix that were made for the column that took longest.
        converged: which columns met the tolerance, boolean ``[R]``.
        negative_curvature: which columns stopped since the matrix curves down along a direction, boolean ``[R]``; x is
            then the iterate before that direction.
    """

    x: Tensor
    residuals: Tensor
    iterations: int
    converged: Tensor
    negative_curvature: Tensor


def check_system(b: Tensor, tolerance: float, max_iterations: int) -> None:
    """Refuse right-hand sides and a stopping rule that no solver can work with.

    Args:
        b: right-hand sides, ``[R, P]``.
        tolerance: on the relative residual.
        max_iterations: of the solver.

    Raises:
        InvalidInput: if one of them makes no sense; the message says which.
    """
    if b.dim() != 2:
        raise InvalidInput(f"the right-hand sides have shape {tuple(b.shape)}, expected [R, P]")
    if not bool(torch.isfinite(b).all()):
        raise InvalidInput("a right-hand side holds NaN or infinity: look at the model's weights and the data")
    if tolerance < 0 or max_iterations < 1:
        raise InvalidInput(
            f"tolerance={tolerance}, max_iterations={max_iterations}: a tolerance of 0 or more and at least one "
            "iteration are needed"
        )


def norms_of(rows: Tensor) -> Tensor:
    """Norm of each row, float64 ``[R]``."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms


def tiny(norms: Tensor) -> float:
    """The smallest number to divide by in place of a norm of 0."""
    return torch.finfo(norms.dtype).tiny
