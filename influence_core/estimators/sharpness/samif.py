"""Influence for a SAM-trained model whose perturbation stands still: SAMIF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from influence_core.estimators.influence_functions.solving import ByConjugateGradients
from influence_core.estimators.sharpness.stationary import AtTheAscent
from influence_core.study import Study


@dataclass
class SAMIF(ByConjugateGradients, AtTheAscent):
    r"""Influence for a SAM-trained model, fast version ("Attributing data for SAM", theorem 4.3, "SAM-HIF (fast)").

    With :math:`\hat\epsilon = \rho\,\nabla L(w^*)/\lVert\nabla L(w^*)\rVert` of the mean loss L and
    :math:`L^k = \ell_k/N`,

    .. math:: \mathrm{IF}(k) = -H_w^{-1}\nabla L^k(w^* + \hat\epsilon), \qquad
              H_w = \nabla^2 L(w^* + \hat\epsilon) + (\lambda + \delta) I, \qquad
              h(k, v) = -\nabla\ell_v(w^*)^\top \mathrm{IF}(k),

    in nats; positive is helpful, and removing images moves the weights by :math:`-\sum_k \mathrm{IF}(k)`. The matrix is
    symmetric, so conjugate gradients solve; the cost is that of ``ConjugateGradient``, with the training gradients and
    the curvature taken at the perturbed weights. That the perturbation itself moves with the weights and with the
    removed image is left out; ``SAMHIF`` has both. With rho = 0 this is ``ConjugateGradient``.

    Three things differ from the paper. Its lemma 4.2 drops :math:`\lambda w^*` from the condition of stationarity and
    keeps :math:`\lambda` in the Hessian; the condition is :math:`\nabla L(w + \hat\epsilon(w)) + \lambda w = 0`. Its
    influence score (theorem 4.8) is :math:`\nabla\ell_v^\top\mathrm{IF}`, minus the influence here, although its text
    calls a positive one valuable. And its tables compare edited models with retrained ones only: put the model
    *without* any edit beside them, which is often as near.

    To edit a network take far more damping than for scores: on the bundled digits the default destroys the model, and
    10 improves it. There is no self-influence: the gradients of an image at two different weights make no square.

    Args:
        damping: :math:`\delta` as a multiple of the mean diagonal of the Gauss-Newton matrix at the perturbed weights.
        curvature: "ggn" or "hessian"; a Hessian that curves down along a direction is refused.
        tolerance: as for ``ConjugateGradient``: by default a solve stops after five steps from EK-FAC.
        max_iterations: products with H for each block of test images; a warning says if they were not enough.
        preconditioner: as for ``ConjugateGradient``.
        steps: as for ``ConjugateGradient``.
        rho: radius of the ascent. By default that of the study's last checkpoint, which is 0 for a plain optimiser; for
            a study without a trajectory 0.05. The scores' ``meta`` says which. A study trained with ASAM or F-SAM,
            whose ascents are others, is refused without it.
        p: norm of the ascent's ball, above 1 and up to 2, or infinity. Training here uses 2.
    """

    name: ClassVar[str] = "samif"
    title: ClassVar[str] = "SAM influence (fast)"
    paper: ClassVar[str] = "Ren et al. 2025 (theorem 4.3)"
    good_for: ClassVar[str] = "Influence for networks trained with SAM; exact for small ones, slow for each test image"
    cost: ClassVar[str] = "M x iterations x 3 N backward + 2 N backward"

    def _curved(self, study: Study) -> nn.Module:
        return self.perturbed_
