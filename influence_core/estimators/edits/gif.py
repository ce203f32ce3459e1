"""Generalized influence functions: GIF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from influence_core.curvature import Columns, Hessian
from influence_core.estimators.edits.partial import PartialEdit


@dataclass
class GIF(PartialEdit):
    r"""Generalized influence functions (Lyu et al. 2023, eq. 6 and 9): the least gradient that is left.

    .. math:: \Delta_J = r (H_J^\top H_J)^{-1} H_J^\top g

    brings the *whole* gradient of the loss that is left, also along the weights that stay, as near to zero as the
    chosen weights can: :math:`\min\lVert H_J\Delta - r g\rVert`. That is not the least loss. With the other weights
    held fixed the least loss has a zero gradient along J alone, which is ``FIF``: for linear regression FIF reaches
    that optimum exactly and GIF does not, though section 2.4 and Figure 2 of the paper say the opposite (a notebook of
    the authors for that figure adds another method's step where it plots FIF). On networks which of the three does best
    changes from study to study.

    Equation 12, the paper's series, inverts :math:`H_J^\top H_J`, whose condition is squared: truncated after 200 steps
    it was 2.5 to 2500 times too short, which factors of 28 to 150 then made up for. The default is LSQR, cut short. A
    network's Hessian curves down along some directions; least squares does not mind, but a Newton step goes uphill
    there. The step is short for a whole class, for its gradient is small where it is fitted well: hence the scale.

    The paper's: ``GIF(solver="neumann", max_iterations=200, scale="validation")``, with ``tolerance=1e-4, step=0.5``.
    Other arguments are those of ``PartialEdit``. ``parameter_change`` names the chosen weights only.

    Example:
        >>> import influence_core as ic
        >>> study = ic.demo.digits()
        >>> gif = ic.estimators.GIF(max_iterations=2, scale=1.0).fit(study)
        >>> edited = study.edited(gif.parameter_change([3, 17]))
    """

    name: ClassVar[str] = "gif"
    title: ClassVar[str] = "GIF"
    paper: ClassVar[str] = "Lyu et al. 2023"
    good_for: ClassVar[str] = "Forgets a class by changing a tenth of the weights, and keeps the test accuracy"

    def _block(self, product: Hessian, chosen: Tensor) -> Columns:
        return Columns(product, chosen)
