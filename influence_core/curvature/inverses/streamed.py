"""What inverses share that solve with products over all data: nothing is kept but the damping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from influence_core.curvature.inverses.base import InverseCurvature, check_damping
from influence_core.curvature.operators import CurvatureName, Operator, mean_diagonal, operator
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
    """

    model: nn.Module
    loss: Loss
    data: Data
    curvature: CurvatureName
    weight_decay: float
    damping: float

    def operator(self) -> Operator:
        """The matrix that is inverted."""
        return operator(
            self.curvature, self.model, self.loss, self.data, weight_decay=self.weight_decay, damping=self.damping
        )

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
