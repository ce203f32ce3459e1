"""Frozen influence functions: FIF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from influence_core.curvature import Columns, Hessian
from influence_core.estimators.edits.partial import PartialEdit


@dataclass
class FIF(PartialEdit):
    r"""Frozen influence functions (Lyu et al. 2023, eq. 10): the classical step with all other weights frozen.

    .. math:: \Delta_J = r H_{J\times J}^{-1} g_J

    is the Newton step to the least loss that the chosen weights can reach; exact for linear regression. The mask lies
    between two products with H as well: :math:`H_{J\times J}^2 v` is not the block of :math:`H^2`. Where the block is
    nearly singular, an indefinite Hessian's can be, the step blows up: fewer ``max_iterations``, or ``damping``.

    The paper's: ``FIF(solver="neumann", max_iterations=200)``. Arguments are those of ``PartialEdit``.
    """

    name: ClassVar[str] = "fif"
    title: ClassVar[str] = "FIF"
    paper: ClassVar[str] = "Lyu et al. 2023, after Koh and Liang 2017"
    good_for: ClassVar[str] = "Forgets most with a tenth of the weights, at the cost of test accuracy"

    def _block(self, product: Hessian, chosen: Tensor) -> Columns:
        return Columns(product, chosen, chosen)
