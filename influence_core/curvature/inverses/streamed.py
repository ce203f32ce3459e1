"""What inverses share that solve with products over all data: nothing is kept but the damping."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import nn

from influence_core.curvature.inverses.base import InverseCurvature, check_damping
from influence_core.curvature.operators import CurvatureName, Operator, mean_diagonal, operator
from influence_core.curvature.solution import Product
from influence_core.curvature.vectors import Shapes, flatten, unflatten
from influence_core.errors import InvalidInput
from influence_core.gradients import Data
from influence_core.losses import Loss


@dataclass(frozen=True)
class Streamed(InverseCurvature):
    r"""Solves with products of H over all data, so that nothing depends on batches.

    Attributes:
        model: in eval mode.
        loss: one loss per sample.
        data: N samples.
        curvature: H: "ggn" or "hessian".
        weight_decay: :math:`\lambda`.
        damping: :math:`\delta`, absolute.
        held: H with what its products need in memory, for several calls; by default each call has its own.
    """

    model: nn.Module
    loss: Loss
    data: Data
    curvature: CurvatureName
    weight_decay: float
    damping: float
    held: Operator | None = field(default=None, kw_only=True, repr=False, compare=False)

    def operator(self) -> Operator:
        """The matrix that is inverted, ready for many products."""
        if self.held is not None:
            return self.held.damped(self.damping)
        return operator(
            self.curvature, self.model, self.loss, self.data, weight_decay=self.weight_decay, damping=self.damping
        ).kept()

    def preconditioned(self, shapes: Shapes) -> Product | None:
        """The preconditioner as a product with rows, where there is one."""
        prior: InverseCurvature | None = getattr(self, "preconditioner", None)
        if prior is None:
            return None
        return lambda rows: flatten(prior.apply(unflatten(rows, shapes)).vectors, shapes)

    def holding(self) -> Self:
        """The same, which keeps in memory what products need until it is let go."""
        return replace(self, held=self.operator())

    def damped(self, damping: float) -> Self:
        """The same matrix with another damping, absolute; nothing is fitted again."""
        return replace(self, damping=damping)

    def facts(self) -> dict[str, Any]:
        """Damping and weight decay."""
        return {"damping": self.damping, "weight_decay": self.weight_decay}


def absolute_damping(relative: float, weight_decay: float, model: nn.Module, loss: Loss, data: Data) -> float:
    """A damping relative to the mean diagonal of the Gauss-Newton matrix, as a number.

    Args:
        relative: 0 or more.
        weight_decay: lambda, 0 or more.
        model: in eval mode.
        loss: one loss per sample.
        data: N samples.

    Returns:
        The damping.
    """
    check_damping(relative, weight_decay)
    return relative * mean_diagonal(model, loss, data) if relative > 0 else 0.0


def check_preconditions(prior: InverseCurvature | None) -> None:
    """Refuse an inverse that cannot precondition.

    Args:
        prior: to check, or ``None``.

    Raises:
        InvalidInput: if it is no fixed definite matrix.
    """
    if prior is not None and not prior.preconditions:
        raise InvalidInput(f"{type(prior).__name__} cannot precondition: it is no fixed definite matrix")
