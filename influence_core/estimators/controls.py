"""Controls: what every estimator has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from influence_core.estimators.base import Estimator
from influence_core.estimators.validation_tuning import FlatValidationTuned
from influence_core.scores import Scale
from influence_core.study import Study, model_outputs


@dataclass
class Loss(Estimator):
    """The loss of each training image at the trained model, and nothing else.

    A model that has not memorised its training set already gives wrong labels a high loss. It costs one forward pass,
    so an estimator that does not beat it is not worth its time.
    """

    name: ClassVar[str] = "loss"
    title: ClassVar[str] = "Loss (control)"
    paper: ClassVar[str] = "control"
    cost: ClassVar[str] = "N forward"
    reasons: ClassVar[dict[str, str]] = {
        "influence": "a loss belongs to one image and says nothing about another",
        "self_influence": "a loss is no effect of training on the image",
        "label_influence": "the loss of each label only repeats the model's prediction",
    }
    scales: ClassVar[dict[str, Scale]] = {"mislabel": "nats"}
    learned: ClassVar[tuple[str, ...]] = ("losses_",)

    def _fit(self, study: Study) -> None:
        self.losses_ = study.losses("train")

    def _mislabel_scores(self) -> Tensor:
        return self.losses_.clone()


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
        solver: as in ``FVM``; so are its options.
        rho: radius of the ascent, ``None`` for the solver's default; 0 tunes as ``VM`` does.
        eta: of ASAM.
        sigma: of F-SAM.
        decay: of F-SAM.
        gamma: of LPF-SGD.
        parts: of LPF-SGD.
    """

    name: ClassVar[str] = "tunedloss"
    title: ClassVar[str] = "Loss after tuning (control)"
    paper: ClassVar[str] = "control"
    cost: ClassVar[str] = "2 x steps x batch backward + N forward"
    reasons: ClassVar[dict[str, str]] = Loss.reasons
    scales: ClassVar[dict[str, Scale]] = Loss.scales
    learned: ClassVar[tuple[str, ...]] = ("losses_",)

    def _fit(self, study: Study) -> None:
        self.losses_ = study.loss(model_outputs(self._tuned(study), study.train), study.train.labels)

    def _mislabel_scores(self) -> Tensor:
        return self.losses_.clone()


@dataclass
class Random(Estimator):
    """Normal random numbers: what a score is worth that knows nothing.

    Its AUC is 0.5, and its AP the share of wrong labels, up to chance. The numbers depend on the seed and the number of
    training images alone.

    Args:
        seed: of the numbers.
    """

    name: ClassVar[str] = "random"
    title: ClassVar[str] = "Random (control)"
    paper: ClassVar[str] = "control"
    cost: ClassVar[str] = "none"
    reasons: ClassVar[dict[str, str]] = dict.fromkeys(
        ("influence", "self_influence", "label_influence", "parameter_change"),
        "random numbers are a control for detection alone",
    )
    learned: ClassVar[tuple[str, ...]] = ("scores_",)
    exempt: ClassVar[dict[str, str]] = {
        "planted_wrong_labels": "it knows nothing of labels, which is its purpose",
        "depends_on_the_study": "it knows nothing of the study, which is its purpose",
        "order_of_training_images": "its numbers belong to places in the dataset",
    }

    seed: int = 0

    def _fit(self, study: Study) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self.scores_ = torch.randn(len(study.train), generator=generator, dtype=torch.float64)

    def _mislabel_scores(self) -> Tensor:
        return self.scores_.clone()
