r"""The ascent of sharpness-aware minimisation as a function of the gradient, and its derivative."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from influence_core.errors import InvalidInput


@dataclass(frozen=True)
class Ascent:
    r"""The point of a p-ball that a linear loss likes least (Foret et al. 2021, eq. 2), from a gradient g.

    With :math:`1/p + 1/q = 1` and :math:`s_i = \operatorname{sgn} g_i`,

    .. math:: \hat\epsilon_i = \rho\, s_i |g_i|^{q-1} / \lVert g\rVert_q^{q/p}, \qquad
              D_{ij} = \frac{\partial\hat\epsilon_i}{\partial g_j} = \rho\left[
              (q-1)\frac{|g_i|^{q-2}\delta_{ij}}{\lVert g\rVert_q^{q/p}}
              - \frac qp\,\frac{s_i|g_i|^{q-1}\, s_j|g_j|^{q-1}}{\lVert g\rVert_q^{q/p+q}}\right] .

    For p = 2 this is :math:`D = \frac{\rho}{\lVert g\rVert}(I - \hat n\hat n^\top)` with :math:`\hat n = g/\lVert
    g\rVert`; for p = infinity the ascent is :math:`\rho\,s`, and D = 0. D is symmetric and positive semi-definite. With
    H the Hessian where g was taken, :math:`C = d\hat\epsilon/dw = D H` and :math:`C^\top = H D`.

    Attributes:
        gradient: g, ``[P]``.
        rho: radius.
        p: of the norm, above 1 and up to 2, or infinity.

    Example:
        >>> import torch
        >>> ascent = Ascent(torch.tensor([3.0, 4.0]), rho=0.5)
        >>> ascent.step()
        tensor([0.3000, 0.4000])
        >>> ascent.derivative(torch.tensor([[3.0, 4.0], [4.0, -3.0]])).round(decimals=4)
        tensor([[ 0.0000,  0.0000],
                [ 0.4000, -0.3000]])
    """

    gradient: Tensor
    rho: float
    p: float = 2.0

    def step(self) -> Tensor:
        """The ascent, ``[P]``; zero where the gradient is."""
        if self._largest == 0 or self.rho == 0:
            return torch.zeros_like(self.gradient)
        if math.isinf(self.p):
            return self.rho * self.gradient.sign()
        unit = self._unit
        return self.rho * unit.sign() * unit.abs().pow(self._q - 1) / self._size ** (1 / self.p)

    def derivative(self, rows: Tensor) -> Tensor:
        """D times R vectors, ``[R, P]``; zero where the gradient is, since there is no derivative."""
        if self.response == 0:
            return torch.zeros_like(rows)
        unit, q, size = self._unit, self._q, self._size
        power = unit.sign() * unit.abs().pow(q - 1)
        straight = (q - 1) * unit.abs().pow(q - 2) * rows
        along = q / self.p / size * (rows @ power)[:, None] * power
        return self.rho / (size ** (1 / self.p) * self._largest) * (straight - along)

    @property
    def response(self) -> float:
        r"""A bound of the norm of D, for p = 2 its norm: :math:`\rho / \lVert g\rVert`."""
        if self._largest == 0 or self.rho == 0 or math.isinf(self.p):
            return 0.0
        return self.rho * (self._q - 1) / (self._size ** (1 / self.p) * self._largest)

    @property
    def _q(self) -> float:
        return self.p / (self.p - 1)

    @property
    def _largest(self) -> float:
        return float(self.gradient.abs().max())

    @property
    def _unit(self) -> Tensor:
        """The gradient over its largest entry, whose powers neither over- nor underflow."""
        return self.gradient / self._largest

    @property
    def _size(self) -> float:
        return float(self._unit.abs().pow(self._q).sum(dtype=torch.float64))


def check_radius(rho: float | None, p: float) -> None:
    """Refuse a radius or a norm that an ascent and its derivative do not exist for.

    Args:
        rho: radius, or ``None`` if it is still to be found.
        p: of the norm.

    Raises:
        InvalidInput: if it makes no sense.
    """
    if rho is not None and not 0 <= rho < math.inf:
        raise InvalidInput(f"rho is {rho}; it is a radius, so 0 or more, or None to take the study's")
    if not (1 < p <= 2 or p == math.inf):
        raise InvalidInput(
            f"p is {p}; choose above 1 and up to 2, or infinity. In between the ascent has no derivative where a "
            "gradient is zero, as that of a dead unit is"
        )
