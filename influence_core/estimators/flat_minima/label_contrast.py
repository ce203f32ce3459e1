"""The given label against the best other one, at a flat minimum of the validation loss: LabelContrast."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from influence_core.curvature import LabelScore, label_scores
from influence_core.curvature.inverses import DiagonalInverse
from influence_core.errors import InvalidInput
from influence_core.estimators.flat_minima.minimum import ValidationMinimum
from influence_core.estimators.flat_minima.tuning import FlatValidationTuned
from influence_core.estimators.outputs_only.priors import frequencies, mean_prediction, true_frequencies
from influence_core.estimators.work import Work
from influence_core.losses import Loss
from influence_core.models import model_outputs
from influence_core.study import Study

Statistic = Literal["studentised", "norms"]
Prior = Literal["none", "given", "predicted"]

SMALLEST = torch.finfo(torch.float32).tiny
"""Least square of a distance between gradients: where two labels have the same one, the ratio fits into float32."""


@dataclass
class LabelContrast(FlatValidationTuned, ValidationMinimum):
    r"""The given label against the best other one, at a flat minimum of the validation loss (a method of this package).

    FVM's :math:`q(z) = \lVert\nabla\ell(z)\rVert^2_{P^{-1}}` is an absolute number: an unusual image with large
    gradients for *every* label has a large q although nothing is wrong with its label. A contrast compares the given
    label y with the others of the same image instead. At the model tuned on the validation set, with
    :math:`\ell_k` the loss of the image with label k and :math:`\lVert g\rVert^2 = g^\top (P + \lambda)^{-1} g`:

    .. math:: c(z) = \max_{k \ne y}
              \frac{\ell_y - \ell_k}{\lVert\nabla\ell_y - \nabla\ell_k\rVert}
              \quad\text{(studentised)}, \qquad
              c(z) = \log q_y - \min_{k \ne y} \log q_k \quad\text{(norms)}.

    *Studentised.* :math:`\ell_y - \ell_k` is the log likelihood ratio of label k against y. If the validation set
    leaves the weights uncertain as :math:`\mathcal N(\tilde\theta, s(P + \lambda)^{-1})`, its standard deviation is, to
    first order, :math:`\sqrt s` times the denominator: c is the studentised ratio. It is also the smallest change of
    the weights after which y is as likely as k,

    .. math:: \min_\Delta \lVert\Delta\rVert_{P + \lambda} \quad\text{subject to}\quad
              (\ell_y - \ell_k) + (\nabla\ell_y - \nabla\ell_k)^\top \Delta = 0 ,

    so that :math:`\frac12 c^2` is what it costs, in the second-order estimate of eq. 19, to make the model agree with
    the label: the increase of the validation loss. Negative values are distances of a label that the model agrees with
    to the nearest one that it would prefer. For cross-entropy :math:`\ell_y - \ell_k` is the difference of two logits.

    *Norms.* If the gradient with the right label is drawn from :math:`\mathcal N(0, s_z P)` with a scale
    :math:`s_z` of the image that nobody knows, the likelihood of label k at its best scale is, up to a constant,
    :math:`-\frac d2 \log q_k` (d the number of weights): c is 2/d times the generalised log likelihood ratio. A factor
    that all q of an image share cancels.

    *Class prior.* Where wrong labels favour some classes, a class may be likelier to the model than it is in truth.
    With ``prior``, :math:`\ell_k` of the studentised contrast is :math:`\ell_k + \log(\pi_k / \tau_k)`, with
    :math:`\pi` how frequent the classes are to the model and :math:`\tau` how frequent they truly are, found from the
    clean images as in ``PriorMargin``. It moves the labels' losses against each other and no gradient.

    The influence of a label k is minus the same number with k in the place of y, so that the suggestion is the label
    with the smallest contrast: the tuned model's prediction for "studentised", the smallest q for "norms" (see eq. 22
    and 25 in ``VM``). One Gram matrix per image gives all of it, so that the labels cost one sweep. ``influence`` on
    test images is that of ``FVM``.

    What to expect: both contrasts find more than q where many labels are wrong, but neither beats the plain loss at the
    tuned model, within the spread of the seeds (``tests/benchmarks/RESULTS.md``): what finds the labels is the clean
    validation set. What the contrast adds to that loss is its meaning, the cost of a label in weights and on the
    validation set.

    Args:
        statistic: "studentised" or "norms".
        prior: :math:`\pi`: "given", the frequencies of the given labels; "predicted", the tuned model's mean prediction
            on the training images; "none" corrects nothing, and is all that "norms" takes.
        damping: as in ``VM`` for the diagonal metric; so are ``top_labels`` and the settings of the tuning.
        top_labels: see ``VM``.
        sharpness: as in ``FVM``.
        rho: as in ``FVM``.
    """

    name: ClassVar[str] = "labelcontrast"
    title: ClassVar[str] = "Label contrast"
    paper: ClassVar[str] = "this package; after flat validation minima, 2025"
    good_for: ClassVar[str] = "On real noise the best that both finds and suggests labels; needs clean images"
    cost: ClassVar[str] = "2 x steps x batch backward + V backward + N forward and K N backward"
    for_classes: ClassVar[frozenset[str]] = frozenset({"fit"})
    learned: ClassVar[tuple[str, ...]] = ("contrasts_", "offsets_")
    former: ClassVar[dict[str, str]] = (
        FlatValidationTuned.former
        | dict.fromkeys(("metric", "probes"), "a contrast needs exact norms, which it takes in the diagonal metric")
        | dict.fromkeys(("pairwise", "epsilon", "hessian"), "its influence is the first term of eq. 20; FVM has both")
    )

    statistic: Statistic = "studentised"
    prior: Prior = field(default="none", kw_only=True)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.statistic == "norms" and self.prior != "none":
            raise InvalidInput(f'prior is {self.prior!r}; norms look at no loss that a prior could move: give "none"')

    def _fit(self, study: Study) -> None:
        super()._fit(study)
        assert isinstance(self.inverse_, DiagonalInverse)
        score: LabelScore = studentised_contrast if self.statistic == "studentised" else norm_contrast
        weights = self.inverse_.weights
        self.offsets_: Tensor = self._offsets(study)
        loss = partial(_moved, study.loss, self.offsets_) if self.prior != "none" else study.loss
        found = label_scores(self.model_, loss, study.train, weights, study.num_classes, score, self.top_labels)
        self.contrasts_: Tensor = found.to(next(self.model_.parameters()).dtype)

    def _offsets(self, study: Study) -> Tensor:
        """What each label's loss is moved by, [K] float64."""
        if self.prior == "none":
            return torch.zeros(study.num_classes, dtype=torch.float64)
        clean = study.split("validation")
        train, known = (model_outputs(self.model_, data) for data in (study.train, clean))
        given = self.prior == "given"
        prior = frequencies(study.train.labels, study.num_classes) if given else mean_prediction(train)
        return (prior / true_frequencies(train, known, clean.labels)).log()

    def _fit_work(self, study: Study) -> Work | None:
        tuned = super()._fit_work(study)
        passes = len(study.train) + len(study.split("validation")) if self.prior != "none" else 0
        return None if tuned is None else tuned + self._labels_work(study) + Work(forward=passes)

    def _call_work(self, study: Study, what: str, tests: int) -> Work | None:
        return super()._call_work(study, what, tests) if what == "influence" else Work()

    def _mislabel_scores(self) -> Tensor:
        given = self._of_scored(self.study_.train.labels).to(self.contrasts_.device)
        return self._of_scored(self.contrasts_).gather(1, given[:, None])[:, 0]

    def _label_influence(self) -> Tensor:
        return -self._of_scored(self.contrasts_)


def _moved(loss: Loss, offsets: Tensor, outputs: Tensor, labels: Tensor) -> Tensor:
    """The loss with each label's offset."""
    return loss(outputs, labels) + offsets.to(outputs.device, outputs.dtype)[labels]


def studentised_contrast(losses: Tensor, grams: Tensor) -> Tensor:
    """For every label, its largest lead in loss over another one, by the norm of the gradients' difference.

    Args:
        losses: [B, m], of each label.
        grams: [B, m, m], inner products of the labels' gradients.

    Returns:
        [B, m].
    """
    squares = torch.diagonal(grams, dim1=1, dim2=2)
    apart = (squares[:, :, None] + squares[:, None, :] - 2 * grams).clamp_min(SMALLEST)
    leads = (losses[:, :, None] - losses[:, None, :]) / apart.sqrt()
    return _without_itself(leads, -torch.inf).amax(2)


def norm_contrast(losses: Tensor, grams: Tensor) -> Tensor:
    """For every label, the log of its squared gradient norm less the smallest of another one.

    Args:
        losses: [B, m]; not looked at.
        grams: [B, m, m], inner products of the labels' gradients.

    Returns:
        [B, m].
    """
    logs = torch.diagonal(grams, dim1=1, dim2=2).clamp_min(torch.finfo(grams.dtype).tiny).log()
    return logs - _without_itself(logs[:, None, :].expand_as(grams), torch.inf).amin(2)


def _without_itself(values: Tensor, filler: float) -> Tensor:
    own = torch.eye(values.shape[1], dtype=torch.bool, device=values.device)
    return values.masked_fill(own, filler)
