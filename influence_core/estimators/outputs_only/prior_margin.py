"""The margin of the given label with the class prior divided out: PriorMargin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from influence_core.estimators.outputs_only.asked_models import AskedModels
from influence_core.estimators.outputs_only.margins import label_margins
from influence_core.estimators.outputs_only.priors import frequencies, mean_prediction, true_frequencies
from influence_core.estimators.work import Work
from influence_core.scores import Scale
from influence_core.study import Study

Prior = Literal["given", "predicted", "none"]
Target = Literal["shift", "validation", "uniform", "given"]


@dataclass
class PriorMargin(AskedModels):
    r"""By how much the best other label is ahead of the given one, with the class prior divided out.

    The plain margin :math:`\max_{k \ne y} \log p_k - \log p_y` of a model that was trained on wrong labels leans
    towards the classes that wrong labels were given to. With :math:`\pi` how frequent the classes are to the model and
    :math:`\tau` how frequent they are in truth,

    .. math:: s(x, y) = \max_{k \ne y} \Bigl(\log p_k - \log\frac{\pi_k}{\tau_k}\Bigr)
              - \Bigl(\log p_y - \log\frac{\pi_y}{\tau_y}\Bigr),

    in nats; positive where another label is likelier. :math:`\pi` as given and :math:`\tau` uniform divides by the
    frequencies of the given labels, and is right where the true classes are equally frequent. They are not always, so
    that the default takes :math:`\tau` from the clean images, by what the models take them for (``ic.estimators.
    true_frequencies``), which holds whether or not the validation set is as unbalanced as the training set. Without
    clean images there is no telling wrong labels from rare classes, and the default corrects nothing.

    The influence of a label k is minus the same number with k in the place of y, so that its argmax is the likeliest
    label.

    Args:
        prior: :math:`\pi`: "given", the frequencies of the given labels; "predicted", the mean prediction on the
            training images; "none" corrects nothing.
        target: :math:`\tau`: "shift", see above; "validation", the frequencies of the clean labels; "uniform"; "given",
            which corrects nothing with ``prior="given"``. ``None`` is "shift" where there are clean images, and
            "given" where not.
        source: see ``AskedModels``, as all others.
    """

    name: ClassVar[str] = "priormargin"
    title: ClassVar[str] = "Prior margin"
    paper: ClassVar[str] = "this package; label shift after Lipton et al. 2018"
    good_for: ClassVar[str] = "Outputs alone, where wrong labels favour some classes; suggests labels"
    cost: ClassVar[str] = "N forward; with clean images 2 x steps x batch backward more"
    scales: ClassVar[dict[str, Scale]] = {"mislabel": "nats", "label_influence": "nats"}
    learned: ClassVar[tuple[str, ...]] = ("margins_", "prior_", "target_")

    prior: Prior = "given"
    target: Target | None = None

    def _unsuited(self, study: Study) -> list[str]:
        lacking = super()._unsuited(study)
        if self.target in ("shift", "validation") and study.validation is None and not lacking:
            lacking.append("a validation set")
        return lacking

    def _fit(self, study: Study) -> None:
        train, validation = self._said(study)
        labels, classes = study.train.labels, study.num_classes
        given = frequencies(labels, classes)
        target = self.target or ("given" if validation is None else "shift")
        if target == "given":
            true = given
        elif target == "uniform":
            true = torch.full_like(given, 1 / classes)
        elif target == "validation":
            true = frequencies(study.split("validation").labels, classes)
        else:
            assert validation is not None
            true = true_frequencies(train, validation, study.split("validation").labels)
        self.prior_ = {"given": given, "predicted": mean_prediction(train), "none": true}[self.prior]
        self.target_ = true
        self.margins_ = label_margins(train, self.prior_, self.target_)

    def _call_work(self, study: Study, what: str, tests: int) -> Work:
        return Work()

    def _mislabel_scores(self) -> Tensor:
        given = self._of_scored(self.study_.train.labels)
        return self._of_scored(self.margins_).gather(1, given[:, None])[:, 0]

    def _label_influence(self) -> Tensor:
        return -self._of_scored(self.margins_)

    def _facts(self) -> dict[str, Any]:
        return super()._facts() | {"prior": self.prior_.tolist(), "target": self.target_.tolist()}
