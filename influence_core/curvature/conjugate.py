"""Conjugate gradients whose residuals stay orthogonal to each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from influence_core.curvature.solution import Product, Solution, check_system, norms_of, tiny
from influence_core.curvature.vectors import orthogonalised
from influence_core.errors import InvalidInput

KEPT = 64
"""Residuals that are kept for each right-hand side."""

BASIS_MIB = 1024.0
"""Memory for those of all right-hand sides that are solved for at once."""


def conjugate_gradient(
    product: Product,
    b: Tensor,
    *,
    tolerance: float = 1e-5,
    max_iterations: int = 1000,
    preconditioner: Product | None = None,
) -> Solution:
    r"""Conjugate gradients for a symmetric positive definite matrix (Hestenes and Stiefel 1952).

    In exact arithmetic every residual is orthogonal to all before it: :math:`r_i^\top M r_j = 0`, with M the
    preconditioner or the identity. Rounding ends that as soon as a large eigenvalue is resolved, which then comes back
    as if it were new, again and again. With a few large eigenvalues far above all others, as a curvature has them, this
    takes about three times as many products in float32 and twice as many in float64. So every residual is
    orthogonalised against those of the first 64 iterations (``KEPT``): in these the large eigenvalues are found. What
    that takes off is missing in x. It is solved for at the end in the space of the residuals that were kept, where the
    matrix is tridiagonal and known, without any product.

    Memory is that of 64 right-hand sides for each, twice so many with a preconditioner, but at most 1 GiB
    (``BASIS_MIB``): of many right-hand sides some are then solved for after the others, and for very long ones, P above
    4 million in float32, fewer residuals are kept. How many depends on P, and not on how many right-hand sides there
    are, so that these do not change each other's solutions.

    Right-hand sides are brought to a length of about 1 by a power of two, which rounds nothing: products of two
    gradients of images that a model is all but certain of would else be too small for float32.

    Rounding also lets the recursion's residual drift from the true one: where it claims what is not so, it starts again
    from x, as long as that helps.

    Args:
        product: the matrix.
        b: Right-hand sides, ``[R, P]``.
        tolerance: on the relative residual.
        max_iterations: in all, restarts included, for each right-hand side.
        preconditioner: an approximate inverse M, symmetric and positive definite.

    Returns:
        The solution; columns with ``b = 0`` have ``x = 0``.

    Example:
        >>> a = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
        >>> conjugate_gradient(lambda rows: rows @ a, torch.tensor([[2.0, 4.0]])).x.round(decimals=3)
        tensor([[1., 1.]])
    """
    check_system(b, tolerance, max_iterations)
    scale = _power_of_two(b)
    b = b / scale
    row = b.shape[1] * b.element_size() * (1 if preconditioner is None else 2)
    fits = int(BASIS_MIB * 2**20) // max(1, row)
    kept = min(KEPT, max_iterations, fits)
    parts = [
        _solved(product, rows, tolerance, max_iterations, preconditioner, kept)
        for rows in b.split(max(1, fits // max(1, kept)))
    ]
    return Solution(
        torch.cat([part.x for part in parts]) * scale,
        torch.cat([part.residuals for part in parts]),
        max(part.iterations for part in parts),
        torch.cat([part.converged for part in parts]),
        torch.cat([part.negative_curvature for part in parts]),
    )


def _solved(
    product: Product, b: Tensor, tolerance: float, most: int, preconditioner: Product | None, kept: int
) -> Solution:
    """The solution for right-hand sides whose residuals fit into memory."""
    x, norms = torch.zeros_like(b), norms_of(b)
    negative = torch.zeros(len(b), dtype=torch.bool, device=b.device)
    residual, used, best = b.clone(), 0, torch.full_like(norms, torch.inf)
    while True:
        relative = norms_of(residual) / norms.clamp_min(tiny(norms))
        open_ = (relative > tolerance) & ~negative & (relative < 0.5 * best)
        best = torch.minimum(best, relative)
        if used >= most or not bool(open_.any()):
            break
        columns = open_.nonzero().flatten()
        used += _round(product, x, residual, columns, negative, tolerance * norms, most - used, preconditioner, kept)
        residual = b - product(x)
    return Solution(x, relative, used, relative <= tolerance, negative)


def _round(
    product: Product,
    x: Tensor,
    residual: Tensor,
    columns: Tensor,
    negative: Tensor,
    targets: Tensor,
    most: int,
    preconditioner: Product | None,
    kept: int,
) -> int:
    """Improve ``x`` in place for some columns until the recursion meets the targets; the number of steps."""
    precondition = preconditioner or (lambda rows: rows)
    r = residual[columns].clone()
    z = precondition(r)
    direction, rho = z.clone(), _dots(r, z)
    targets = torch.maximum(targets, torch.finfo(r.dtype).eps * norms_of(residual))  # less is rounding
    bases = [_Kept(row, min(kept, most), preconditioner is not None) for row in r]
    for step in range(1, most + 1):
        curved = product(direction)
        curvature = _dots(direction, curved)
        bad = curvature <= 0
        negative[columns[bad]] = True
        alpha = torch.where(bad, torch.zeros_like(rho), rho / torch.where(bad, torch.ones_like(rho), curvature))
        x[columns] += alpha[:, None].to(x) * direction
        for one, *taken in zip(bases, r, z, rho.tolist(), alpha.tolist(), strict=True):
            one.add(*taken)
        r -= alpha[:, None].to(x) * curved
        for i, one in enumerate(bases):
            r[i] = one.orthogonalised(r[i])
        keep = (norms_of(r) > targets[columns]) & ~bad
        done = ~bad & (~keep if step < most else torch.ones_like(keep))
        for i in done.nonzero().flatten().tolist():
            x[columns[i]] += bases[i].missing()
        if not bool(keep.any()):
            return step
        if not bool(keep.all()):
            columns, r, direction, rho = columns[keep], r[keep], direction[keep], rho[keep]
            bases = [one for one, stays in zip(bases, keep.tolist(), strict=True) if stays]
        z = precondition(r)
        rho_next = _dots(r, z)
        direction = z + (rho_next / rho)[:, None].to(x) * direction
        rho = rho_next
    return most


class _Kept:
    r"""The first residuals of a right-hand side, and what was taken off later ones.

    With :math:`z_j = M r_j`, :math:`\rho_j = r_j^\top z_j`, :math:`\beta_j = \rho_{j+1} / \rho_j` and the length of the
    step :math:`\alpha_j`, the matrix is in the basis :math:`z_j / \sqrt{\rho_j}`

    .. math:: U^\top \operatorname{diag}(1 / \alpha_j)\, U, \qquad U_{jj} = 1, \quad U_{j,j+1} = -\sqrt{\beta_j} .
    """

    def __init__(self, like: Tensor, room: int, preconditioned: bool) -> None:
        self._r = like.new_empty(room, len(like))
        self._z = torch.empty_like(self._r) if preconditioned else self._r
        self._removed = torch.zeros(room, dtype=torch.float64, device=like.device)
        self._rho: list[float] = []
        self._alpha: list[float] = []

    def add(self, r: Tensor, z: Tensor, rho: float, alpha: float) -> None:
        """Keep a residual and the length of the step from it, if there is room."""
        if rho < 0:
            raise InvalidInput("the preconditioner of conjugate gradients is not positive definite")
        at = len(self._rho)
        if at == len(self._r) or rho == 0:
            return
        self._r[at] = r / math.sqrt(rho)
        if self._z is not self._r:
            self._z[at] = z / math.sqrt(rho)
        self._rho.append(rho)
        self._alpha.append(alpha)

    def orthogonalised(self, r: Tensor) -> Tensor:
        """A new residual, made orthogonal to those that are kept."""
        count = len(self._rho)
        removed, r = orthogonalised(r, self._r[:count], self._z[:count])
        self._removed[:count] += removed
        return r

    def missing(self) -> Tensor:
        """What x lacks to account for what was taken off the residuals."""
        count = len(self._rho)
        rho, alpha = (torch.tensor(t, dtype=torch.float64).to(self._removed) for t in (self._rho, self._alpha))
        upper = torch.eye(count).to(rho) - (rho[1:] / rho[:-1]).sqrt().diag(1)
        half = torch.linalg.solve_triangular(upper.T, self._removed[:count, None], upper=False, unitriangular=True)
        whole = torch.linalg.solve_triangular(upper, alpha[:, None] * half, upper=True, unitriangular=True)
        return whole[:, 0].to(self._z) @ self._z[:count]


def _power_of_two(b: Tensor) -> Tensor:
    """For each right-hand side the power of two near its largest number, ``[R, 1]``."""
    if not b.numel():
        return torch.ones_like(b[:, :1])
    exponents = torch.frexp(b.abs().amax(1, keepdim=True)).exponent.clamp(-100, 100)
    return torch.ldexp(torch.ones_like(b[:, :1]), exponents)


def _dots(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum(1, dtype=torch.float64)
