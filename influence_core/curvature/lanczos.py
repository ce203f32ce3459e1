"""Krylov spaces of one fixed symmetric matrix: its largest eigenvalue, and eigenpairs by Lanczos' method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from influence_core.curvature.solution import Product
from influence_core.curvature.vectors import orthogonalised
from influence_core.errors import InvalidInput
from influence_core.progress import track


@dataclass(frozen=True)
class Eigenpairs:
    """Ritz pairs of a symmetric matrix, by falling eigenvalue.

    Attributes:
        values: float64 ``[R]``.
        vectors: orthonormal rows, ``[R, P]``.
        residuals: ``||A u - value u||`` as the Krylov space sees it, float64 ``[R]``; 0 is exact.
        steps: dimension of the Krylov space.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    steps: int


def lanczos(product: Product, size: int, steps: int, *, like: Tensor, seed: int = 0) -> Eigenpairs:
    """Eigenpairs from an n-step Krylov space with full re-orthogonalisation, twice (Lanczos 1950; Giraud et al. 2005).

    The matrix is one and the same in every step; a new mini-batch at every step would make no Krylov space. Where the
    space becomes invariant before its n-th step (repeated eigenvalues do that), it is continued with a new random
    direction, so that P steps give all eigenpairs.

    Args:
        product: the matrix.
        size: P.
        steps: n; at most P are made.
        like: a tensor of the device and type wanted.
        seed: of the start and of new directions.

    Returns:
        n eigenpairs.

    Raises:
        InvalidInput: If ``steps`` is less than 1, or a product holds NaN.
    """
    if steps < 1:
        raise InvalidInput(f"steps is {steps}; a Krylov space needs at least 1")
    steps = min(steps, size)
    generator = torch.Generator().manual_seed(seed)

    def direction() -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(like)

    basis = like.new_zeros(steps + 1, size)
    small = torch.zeros(steps, steps, dtype=torch.float64, device=like.device)
    basis[0] = _unit(direction())
    beyond = 0.0
    largest = 0.0
    for j in track(range(steps), "Lanczos steps"):
        w = product(basis[j : j + 1])[0]
        if not bool(torch.isfinite(w).all()):
            raise InvalidInput("a product with the curvature holds NaN or infinity: look at the weights and the data")
        coefficients, w = orthogonalised(w, basis[: j + 1])
        small[: j + 1, j] = coefficients
        length = float(w.norm())
        largest = max(largest, float(small[: j + 1, j].norm()), length)
        if length > 100 * torch.finfo(like.dtype).eps * largest:
            following, beyond = w / length, length
        else:
            following, beyond = orthogonalised(direction(), basis[: j + 1])[1], 0.0
        if j + 1 < steps:
            small[j + 1, j] = beyond
            basis[j + 1] = _unit(orthogonalised(following, basis[: j + 1])[1])
    values, vectors = torch.linalg.eigh((small + small.T) / 2)
    order = torch.arange(steps - 1, -1, -1, device=like.device)
    rotated = vectors[:, order].T
    return Eigenpairs(values[order], rotated.to(like) @ basis[:steps], beyond * rotated[:, -1].abs(), steps)


def largest_eigenvalue(product: Product, size: int, *, like: Tensor, steps: int = 20, seed: int = 0) -> float:
    """The eigenvalue of largest magnitude, by power iteration from a random start.

    Args:
        product: the matrix.
        size: P.
        like: a tensor of the device and type wanted.
        steps: products made.
        seed: of the start.

    Returns:
        Its magnitude, from below: the true one may be a few per cent larger.

    Raises:
        InvalidInput: If the matrix is zero or holds NaN.
    """
    generator = torch.Generator().manual_seed(seed)
    vector = _unit(torch.randn(size, generator=generator, dtype=torch.float64).to(like))
    value = 0.0
    for _ in track(range(steps), "power iteration"):
        image = product(vector[None])[0]
        value = float(image.norm())
        if not 0 < value < float("inf"):
            raise InvalidInput(f"the curvature times a random vector has norm {value}; expected a positive number")
        vector = image / value
    return value


def _unit(vector: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vector)
    return vector / length
