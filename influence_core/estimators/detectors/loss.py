"""A control: the loss of each training image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from influence_core.estimators.base import Estimator
from influence_core.estimators.work import Work
from influence_core.scores import Scale
from influence_core.study import Study


@dataclass
class Loss(Estimator):
    """The loss of each training image at the trained model, and nothing else.

    A model that has not memorised its training set already gives wrong labels a high loss. It costs one forward pass,
    so an estimator that does not beat it is not worth its time.
    """

    name: ClassVar[str] = "loss"
    title: ClassVar[str] = "Loss (control)"
    paper: ClassVar[str] = "control"
    good_for: ClassVar[str] = "The control to beat: finds wrong labels at once, unless the network knows them by heart"
    cost: ClassVar[str] = "N forward"
    reasons: ClassVar[dict[str, str]] = {
        "influence": "a loss belongs to one image and says nothing about another",
        "self_influence": "a loss is no effect of training on the image",
        "label_influence": "the loss of each label only repeats the model's prediction",
    }
    scales: ClassVar[dict[str, Scale]] = {"mislabel": "nats"}
    by_rows: ClassVar[frozenset[str]] = frozenset({"mislabel_scores"})
    learned: ClassVar[tuple[str, ...]] = ("losses_",)

    def _fit(self, study: Study) -> None:
        self.losses_ = study.losses("train")

    def _mislabel_scores(self) -> Tensor:
        return self._of_scored(self.losses_).clone()

    def _fit_work(self, study: Study) -> Work:
        return Work(forward=len(study.train))

    def _call_work(self, study: Study, what: str, tests: int) -> Work:
        return Work()
