r"""Least squares with some columns and rows of a symmetric matrix, known by its products alone.

With H symmetric, P x P, chosen columns J and chosen rows I, the matrix is :math:`A = H_{I,J}` and what is solved is

.. math:: \min_x \lVert A x - b_I \rVert^2 + \delta^2 \lVert x \rVert^2.

Every vector keeps its P entries and is zero where it is not chosen: two masks around a product are a block of H. The
matrix A'A has no negative eigenvalue, so that an indefinite H does no harm, but it has the squares of H's condition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from influence_core.curvature.solution import Product
from influence_core.errors import InvalidInput

_LARGEST = 1e6
"""The series gives up at this divisor: the loss would be flat."""


@dataclass(frozen=True)
class LeastSquares:
    """What a solver found.

    Attributes:
        x: ``[P]``, zero outside the columns.
        residual: ``||A'(b - A x) - delta^2 x|| / ||A'b||``, computed at the end from x: 0 at the minimum.
        iterations: steps, each of two products.
        converged: whether the stopping rule was met.
        divisor: M of the series; 1 for LSQR.
    """

    x: Tensor
    residual: float
    iterations: int
    converged: bool
    divisor: float = 1.0


class Columns:
    """Columns and rows of a symmetric matrix.

    Args:
        product: the matrix, ``[R, P] -> [R, P]``.
        columns: which columns, boolean ``[P]``.
        rows: which rows, boolean ``[P]``; None for all.

    Example:
        >>> h = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
        >>> first = torch.tensor([True, False])
        >>> Columns(lambda v: v @ h, first).times(torch.tensor([5.0, 7.0]))
        tensor([10.,  5.])
        >>> Columns(lambda v: v @ h, first, first).times(torch.tensor([5.0, 7.0]))
        tensor([10.,  0.])
    """

    def __init__(self, product: Product, columns: Tensor, rows: Tensor | None = None) -> None:
        self._product, self._columns = product, columns
        self._rows = torch.ones_like(columns) if rows is None else rows
        self.width = int(columns.sum())

    def chosen(self, right: Tensor) -> Tensor:
        """The chosen entries of a right-hand side, ``[P]``."""
        return right * self._rows

    def times(self, x: Tensor) -> Tensor:
        """A x, ``[P]``."""
        return self._product((x * self._columns)[None])[0] * self._rows

    def transposed_times(self, u: Tensor) -> Tensor:
        """A' u, ``[P]``."""
        return self._product((u * self._rows)[None])[0] * self._columns


def solve_lsqr(
    block: Columns, b: Tensor, *, damping: float = 0.0, tolerance: float = 1e-6, max_iterations: int = 1000
) -> LeastSquares:
    """The minimum in growing Krylov spaces, as LSQR finds it (Paige and Saunders 1982).

    The basis is orthogonalised anew in every step, which SciPy's LSQR does not do: rounding would otherwise show in the
    fourth digit of an x that is stopped early, and the batch size with it. It keeps one vector of length P per step.

    Args:
        block: A.
        b: ``[P]``.
        damping: delta.
        tolerance: on the residual, as ``LeastSquares`` has it.
        max_iterations: of two products each. Fewer leave the directions of small curvature alone, as damping does.

    Returns:
        The solution; of least norm where there are several.

    Example:
        >>> h = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
        >>> block = Columns(lambda v: v @ h, torch.tensor([True, False]))
        >>> solve_lsqr(block, torch.tensor([5.0, 0.0])).x
        tensor([2., 0.])
    """
    right = block.chosen(b)
    beta = _norm(right)
    u = right / beta if beta > 0 else right
    v = block.transposed_times(u)
    alpha = _norm(v)
    if not alpha * beta > 0:
        return LeastSquares(torch.zeros_like(b), 0.0, 0, True)
    first, largest, basis = (alpha, beta), alpha, [v / alpha]
    bidiagonal = torch.zeros(max_iterations + 1, max_iterations, dtype=torch.float64)
    y, done = torch.zeros(0, dtype=torch.float64), False
    for j in range(max_iterations):
        u = block.times(basis[j]) - alpha * u
        beta = _norm(u)
        bidiagonal[j, j], bidiagonal[j + 1, j] = alpha, beta
        y = _small(bidiagonal[: j + 2, : j + 1], first[1], damping)
        largest = max(largest, alpha, beta)
        if beta <= 10 * torch.finfo(b.dtype).eps * largest:  # the space holds the solution
            done = True
            break
        u = u / beta
        v = block.transposed_times(u) - beta * basis[j]
        for _ in range(2):
            for other in basis:
                v = v - torch.dot(other, v) * other
        alpha = _norm(v)
        residual = alpha * beta * abs(float(y[-1])) / (first[0] * first[1])
        if residual <= tolerance or alpha <= 10 * torch.finfo(b.dtype).eps * largest:
            done = True
            break
        basis.append(v / alpha)
    x = torch.zeros_like(b)
    for factor, vector in zip(y.tolist(), basis, strict=False):
        x += factor * vector
    left = _norm(_normal(block, x, right, damping)) / (first[0] * first[1])
    return LeastSquares(x, left, len(y), done)


def _small(bidiagonal: Tensor, length: float, damping: float) -> Tensor:
    """The least-squares problem in the Krylov space."""
    size = bidiagonal.shape[1]
    matrix = torch.cat([bidiagonal, damping * torch.eye(size, dtype=bidiagonal.dtype)])
    right = torch.zeros(len(matrix), 1, dtype=bidiagonal.dtype)
    right[0] = length
    # Its default, gelsy, gives other last bits from call to call, by where its work space happens to lie in memory.
    solution: Tensor = torch.linalg.lstsq(matrix, right, driver="gelsd").solution[:, 0]
    return solution


def solve_series(
    block: Columns,
    b: Tensor,
    *,
    damping: float = 0.0,
    tolerance: float = 1e-4,
    max_iterations: int = 200,
    step: float = 0.5,
) -> LeastSquares:
    r"""The Neumann series of Lyu et al. (2023), eq. 12 with the losses divided by M (Proposition 1).

    .. math:: x_0 = A'b / M^2, \qquad x_j = x_0 + x_{j-1} - (A'A + \delta^2 I) x_{j-1} / M^2

    It converges if and only if :math:`M > \sigma_{\max}(A) / \sqrt2`, for the symmetric matrix has no negative
    eigenvalue and x0 lies in its range. M starts at 1 and grows by ``step`` whenever, at every second step, the last
    change is larger than it was two steps before; the series then starts anew. It stops when the change is at most
    ``tolerance`` times the square root of the number of columns, an absolute number. After j steps a direction of
    singular value s is solved for as if :math:`M^2 / (j + 1)` had been added to s^2, so that a truncated series is far
    too short along directions of small curvature.

    Args:
        block: A.
        b: ``[P]``.
        damping: delta.
        tolerance: on the change, for each column.
        max_iterations: steps of the series that counts, of two products each.
        step: by what M grows.

    Returns:
        The sum so far; ``converged`` says that the changes became small, ``residual`` how far it is from the minimum.

    Raises:
        InvalidInput: If no M up to 1e6 keeps the series from growing.
    """
    right = block.chosen(b)
    first = block.transposed_times(right)
    target = tolerance * math.sqrt(block.width)
    divisor = 1.0
    while divisor <= _LARGEST:
        x = start = first / divisor**2
        before, change, used = math.inf, math.inf, 0
        growing = False
        while change > target and used < max_iterations and not growing:
            curved = block.transposed_times(block.times(x)) + damping**2 * x
            following = start + x - curved / divisor**2
            change = _norm(following - x)
            x = following
            if used % 2 == 0:
                growing, before = not change <= before, change
            used += 1
        if not growing:
            norm = _norm(first)
            residual = _norm(_normal(block, x, right, damping)) / norm if norm > 0 else 0.0
            return LeastSquares(x, residual, used, change <= target, divisor)
        divisor += step
    raise InvalidInput(
        f"the series diverges with M up to {_LARGEST:g}, in steps of {step:g}: the curvature is that large, or not "
        "finite; take solver='least_squares'"
    )


def _normal(block: Columns, x: Tensor, right: Tensor, damping: float) -> Tensor:
    """``A'(b - A x) - delta^2 x``: minus half the gradient of what is minimised."""
    return block.transposed_times(right - block.times(x)) - damping**2 * x


def _norm(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))
