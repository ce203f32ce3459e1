"""A control: the loss of each training image at the model tuned on the validation set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from influence_core.estimators.detectors.loss import Loss
from influence_core.estimators.flat_minima.tuning import FlatValidationTuned
from influence_core.estimators.work import Work
from influence_core.models import dataset_losses
from influence_core.scores import Scale
from influence_core.study import Study


@dataclass
class TunedLoss(FlatValidationTuned):
    """The loss of each training image at the model that was tuned on the validation set, and nothing else.

    The control of VM, FVM and LabelContrast, with the same tuning: what they score above it is due to influence; what
    this scores above ``Loss`` is due to the clean labels of the validation set. It needs no per-sample gradient.

    Args:
        steps: optimiser steps on the validation set.
        learning_rate: at the start; half a cosine takes it to 0.
        momentum: of SGD.
        weight_decay: lambda of the penalty lambda/2 ||w||^2.
        batch_size: samples per step.
        batch_statistics: whether batch normalisation uses batch statistics while tuning.
        seed: of the order of the batches.
        sharpness: as in ``FVM``.
        rho: radius of the ascent, ``None`` for the optimiser's default; 0 tunes as ``VM`` does.
    """

    name: ClassVar[str] = "tunedloss"
    title: ClassVar[str] = "Loss after tuning (control)"
    paper: ClassVar[str] = "control"
    good_for: ClassVar[str] = "The control with clean images: no method finds wrong labels better, but it suggests none"
    cost: ClassVar[str] = "2 x steps x batch backward + N forward"
    reasons: ClassVar[dict[str, str]] = Loss.reasons
    scales: ClassVar[dict[str, Scale]] = Loss.scales
    by_rows: ClassVar[frozenset[str]] = frozenset({"mislabel_scores"})
    learned: ClassVar[tuple[str, ...]] = ("losses_",)

    def _fit(self, study: Study) -> None:
        self.losses_ = dataset_losses(self._tuned(study), study.loss, study.train)

    def _mislabel_scores(self) -> Tensor:
        return self._of_scored(self.losses_).clone()

    def _fit_work(self, study: Study) -> Work:
        return self._tuned_work(study) + Work(forward=len(study.train))

    def _call_work(self, study: Study, what: str, tests: int) -> Work:
        return Work()
