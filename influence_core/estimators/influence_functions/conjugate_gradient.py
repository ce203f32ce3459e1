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
    :math:`\lambda` the study's weight decay, :math:`\delta` the damping.

    By default a solve is *not* finished: from what EK-FAC says it goes five steps towards the exact solution. That
    predicts retraining better than both ends do, on the digits (``tests.benchmarks.lds``) as in Wang et al. 2025
    (arXiv:2507.14740), whose steps are those of a series. With a ``tolerance`` it is exact up to the reported residual
    for this matrix: for a model at its minimum, such as a logistic regression, that is the exact influence function.
    That the loss is at a minimum and the change is small remains an assumption, which damping softens.

    The Jacobians of the outputs are kept while a call lasts where they fit 1.25 GiB, so that a product is two small
    matrix products; else every product passes over the training set. Each test image of a block keeps up to 64 vectors
    of the model's size, together at most 1 GiB: see ``influence_core.curvature.conjugate_gradient``.

    Mislabel scores need a validation set: minus the influence on its mean loss. ``self_influence`` takes N solves, so
    N times as long as the influence on one test image: for a few thousand images of a small model at most.

    Args:
        damping: :math:`\delta` as a multiple of the mean diagonal of the Gauss-Newton matrix. "auto" takes the least of
            100, 30, ..., 0.01 with which a step to the minimum of the training loss does what the quadratic model says
            (``curvature.trusted_damping``): little at a minimum, about 10 on networks. "validation" takes the one that
            agrees best with 12 retrainings on random halves of the training set, by the rank correlation of predicted
            and real validation losses; they take as long as 6 trainings. ``meta`` has what was found for each.
        curvature: "ggn" or "hessian"; a Hessian that curves down along a direction is refused.
        tolerance: on the residual relative to the gradient; below it a solve stops. Give one, such as 1e-4, to solve to
            the end; by default a solve stops after five steps.
        max_iterations: products with H for each block of test images; a warning says if they were not enough.
        preconditioner: another inverse curvature that the solve starts from in every step: "ekfac", "nystrom",
            "diagonal", "dense" or an ``InverseSpec`` with options; it has a damping of its own, but for "nystrom".
            "auto" is "ekfac" where the solve stops early, and "nystrom", which takes the fewest products, where it does
            not. ``None`` for none.
        steps: after how many products to stop on purpose; by default 5, and none where a tolerance is given.
    """

    name: ClassVar[str] = "conjugategradient"
    title: ClassVar[str] = "Conjugate gradients"
    paper: ClassVar[str] = "Koh and Liang 2017"
    good_for: ClassVar[str] = "Predicts retraining best, slowly; with a tolerance, the exact solve"
    cost: ClassVar[str] = "M x steps x 3 N backward + 3 N backward; self-influence N x steps x 3 N"
