"""One system for many shifts of its matrix, in one Krylov space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from influence_core.curvature.solution import Product
from influence_core.curvature.vectors import orthogonalised
from influence_core.errors import InvalidInput

ROOM = 32
"""Directions for which there is room at first."""


@dataclass(frozen=True)
class Shifted:
    r"""The solution for one shift s.

    Attributes:
        x: of :math:`(A + sI) x = b`, ``[P]``.
        quadratic: :math:`x^\top A x`, without the shift.
        linear: :math:`x^\top b`.
        residual: relative, as the Krylov space sees it.
        negative: whether A + sI is not positive definite there; the rest means nothing then.
    """

    x: Tensor
    quadratic: float
    linear: float
    residual: float
    negative: bool = False


class ShiftedSystems:
    r""":math:`(A + sI) x = b` for one b and one shift after the other.

    Shifts do not change the Krylov space: with Lanczos' basis V of it, :math:`V^\top A V = T`, and
    :math:`x = V (T + sI)^{-1} e_1 \lVert b\rVert` is what conjugate gradients find after as many products. A product is
    made once for all shifts, so that a row of them costs what its hardest one costs. Every new direction is
    orthogonalised against all before, twice: what rounding loses in conjugate gradients is not lost here.

    Args:
        product: A, symmetric.
        b: ``[1, P]``, not zero.
        most: directions in memory, and products, at most.
    """

    def __init__(self, product: Product, b: Tensor, most: int) -> None:
        self._product, self._most = product, min(most, b.shape[1])
        self._length = float(torch.linalg.vector_norm(b, dtype=torch.float64))
        self._basis = b.new_empty(min(self._most, ROOM), b.shape[1])
        self._basis[0] = b[0] / self._length
        self._diagonal: list[float] = []
        self._beside: list[float] = []

    @property
    def products(self) -> int:
        """How many were made so far."""
        return len(self._diagonal)

    def solve(self, shift: float, tolerance: float) -> Shifted:
        """The solution, to a relative residual or as near as the memory lets it come.

        Args:
            shift: s.
            tolerance: on the relative residual.

        Returns:
            The solution.

        Raises:
            InvalidInput: if a product holds NaN or infinity.
        """
        if not self._diagonal:
            self._extend()
        while True:
            found = self._found(shift)
            last = self.products == self._most or self._beside[-1] == 0
            if found.negative or found.residual <= tolerance or last:
                return found
            self._extend()

    def _extend(self) -> None:
        size = self.products + 1
        w = self._product(self._basis[size - 1 : size])[0]
        scale = float(w.norm())
        if not math.isfinite(scale):
            raise InvalidInput("a product with the curvature holds NaN or infinity: look at the weights and the data")
        coefficients, w = orthogonalised(w, self._basis[:size])
        self._diagonal.append(float(coefficients[-1]))
        length = float(w.norm())
        # where the space is invariant what is left is rounding
        self._beside.append(length if length > 100 * torch.finfo(w.dtype).eps * scale else 0.0)
        if self._beside[-1] and size < self._most:
            if size == len(self._basis):
                more = self._basis.new_empty(min(size, self._most - size), len(w))
                self._basis = torch.cat([self._basis, more])
            self._basis[size] = w / length

    def _found(self, shift: float) -> Shifted:
        small = torch.diag(torch.tensor(self._diagonal, dtype=torch.float64))
        beside = torch.tensor(self._beside[:-1], dtype=torch.float64)
        small += torch.diag(beside, 1) + torch.diag(beside, -1)
        values, vectors = torch.linalg.eigh(small)
        size = self.products
        if bool((values + shift <= 0).any()):
            return Shifted(self._basis[0], 0.0, 0.0, 1.0, True)
        y = vectors @ (vectors[0] / (values + shift)) * self._length
        x = y.to(self._basis) @ self._basis[:size]
        residual = self._beside[-1] * abs(float(y[-1])) / self._length
        return Shifted(x, float(y @ small @ y), float(y[0]) * self._length, residual)
