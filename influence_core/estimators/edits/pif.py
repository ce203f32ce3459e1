"""Projected influence functions: PIF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from influence_core.curvature import Columns, Hessian
from influence_core.estimators.edits.partial import PartialEdit


@dataclass
class PIF(PartialEdit):
    r"""Projected influence functions (Lyu et al. 2023, section 2.4): the step in all weights, of which some are taken.

    .. math:: \Delta_J = r (H^{-1} g)_J

    The rest of the step is thrown away, so that nothing makes up for it: for linear regression neither the least loss
    nor the least gradient, and on networks often hardly any change at a small ratio. At ``ratio=1`` the three differ
    only in the normalisation layers, which are never selected. (The authors' script divides PIF by 10 besides.)

    The paper's: ``PIF(solver="neumann", max_iterations=200)``. Arguments are those of ``PartialEdit``.
    """

    name: ClassVar[str] = "pif"
    title: ClassVar[str] = "PIF"
    paper: ClassVar[str] = "Lyu et al. 2023, after Schioppa et al. 2022"
    good_for: ClassVar[str] = "Corrects wrong labels and keeps the test accuracy best of all edits but retraining"

    def _block(self, product: Hessian, chosen: Tensor) -> Columns:
        return Columns(product, torch.ones_like(chosen))
