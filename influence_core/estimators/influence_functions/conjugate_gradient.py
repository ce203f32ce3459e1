"""Influence functions by conjugate gradients: ConjugateGradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influence_core.estimators.influence_functions.iterative import Iterative
from influence_core.estimators.influence_functions.solving import ByConjugateGradients


@dataclass
class ConjugateGradient(ByConjugateGradients, Iterative):
    r"""Influence functions by conjugate gradients (Koh and Liang 2017, arXiv:1703.04730, eq. 2 and section 3).

    .. math:: h(k, v) = \tfrac1N \nabla\ell_v^\top (H + (\lambda + \delta) I)^{-1} \nabla\ell_k

    is the change of the test loss, in nats, when the training image is removed: positive is helpful, which turns the
    sign of the paper's :math:`I_\text{up,loss}`. H is the Gauss-Newton matrix (positive semi-definite) or the Hessian,
    :math:`\lambda` the study's weight decay, :math:`\delta` the damping. Exact up to the reported residual for this
    matrix; that the loss is at a minimum and the change is small remains an assumption.

    Each test image of a block keeps up to 64 vectors of the model's size, together at most 1 GiB: see
    ``influence_core.curvature.conjugate_gradient``. The smaller the damping, the more products a solve takes: on the
    bundled digits, to a residual of 1e-4, about 40 with damping 1 and 90 with 0.1.

    Mislabel scores need a validation set: minus the influence on its mean loss. ``self_influence`` takes N solves, so
    N times as long as the influence on one test image: for a few thousand images of a small model at most.

    Args:
        damping: :math:`\delta` as a multiple of the mean diagonal of the Gauss-Newton matrix.
        curvature: "ggn" or "hessian"; a Hessian that curves down along a direction is refused.
        tolerance: on the residual relative to the gradient; below it a solve stops.
        max_iterations: products with H for each block of test images; a warning says if they were not enough.
        preconditioner: another inverse curvature that the solve starts from in every step, such as "ekfac", or an
            ``InverseSpec`` with options; it has a damping of its own. ``None`` for none.
    """

    name: ClassVar[str] = "conjugategradient"
    title: ClassVar[str] = "Conjugate gradients"
    paper: ClassVar[str] = "Koh and Liang 2017"
    good_for: ClassVar[str] = "The exact solve that other influence functions approximate; small models, few images"
    cost: ClassVar[str] = "M x iterations x 3 N backward + N backward; self-influence N x iterations x 3 N"
