"""Influence at a minimum of the validation loss: VM and FVM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from influence_core.errors import InvalidInput
from influence_core.estimators.label_norms import label_scores, squared_norms_of_labels
from influence_core.estimators.validation_tuning import FlatValidationTuned, ValidationTuned
from influence_core.gradients import inner_products, mean_squares, per_sample_gradients, squared_norms
from influence_core.study import Study


@dataclass
class VM(ValidationTuned):
    r"""Influence at a minimum of the validation loss ("flat validation minima", section 3.4, with a plain optimiser).

    The model is tuned on the clean validation set to :math:`\tilde\theta`. With the diagonal Fisher matrix P of the
    validation set at :math:`\tilde\theta`, gradients g there, and damping, the disagreement of a training image with
    the validation set is

    .. math:: q(z) = g_z^\top (P + \lambda)^{-1} g_z \quad\text{(eq. 21)}.

    A large q means probably mislabelled, so the mislabel score is q and the influence of a label is -q (eq. 25); eq. 22
    read with eq. 21 would suggest the *worst* label. For one test image v the influence is
    the first-order term of eq. 20,
    :math:`h(z, v) = g_v^\top (P + \lambda)^{-1} g_z`.

    Args:
        steps: optimiser steps on the validation set.
        learning_rate: at the start; half a cosine takes it to 0.
        momentum: of SGD.
        weight_decay: lambda of the penalty lambda/2 ||w||^2.
        batch_size: samples per step.
        damping: :math:`\lambda` relative to the mean of P; the paper has none, but dead units make P zero.
        top_labels: how many labels of lowest loss to look at beside the given one, 0 for all; ``None`` for all below 50
            classes, and else 10. The other labels' influence is below that of all labels looked at.
        batch_statistics: whether batch normalisation uses batch statistics while tuning.
        seed: of the order of the batches.
    """

    name: ClassVar[str] = "vm"
    title: ClassVar[str] = "VM"
    paper: ClassVar[str] = "flat validation minima, 2025 (plain optimiser)"
    cost: ClassVar[str] = "steps x batch backward + (V + N) backward; label influence N forward and K N backward"
    reasons: ClassVar[dict[str, str]] = {
        "self_influence": "q measures disagreement with the validation set, not what the image does to itself"
    }
    exempt: ClassVar[dict[str, str]] = {"rotated_inputs": "a diagonal metric belongs to its coordinates"}

    damping: float = 1e-3
    top_labels: int | None = None

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.damping <= 0:
            raise InvalidInput(f"damping is {self.damping}; it divides by P + damping, so it must be above 0")
        if self.top_labels is not None and self.top_labels < 0:
            raise InvalidInput(f"top_labels is {self.top_labels}; it is a number of labels, or 0 for all")

    def _fit(self, study: Study) -> None:
        self.model_ = self._tuned(study)
        fisher = mean_squares(self.model_, study.loss, study.split("validation"))
        count = sum(p.numel() for p in fisher.values())
        mean = float(sum(p.sum(dtype=torch.float64) for p in fisher.values())) / count
        if mean == 0:
            raise InvalidInput(
                "every gradient on the validation set is zero at the tuned model, which is certain of each image: "
                "use fewer steps"
            )
        self.damping_ = self.damping * mean
        self.inverse_fisher_ = {name: 1.0 / (p + self.damping_) for name, p in fisher.items()}

    def _influence(self, test_ids: Tensor) -> Tensor:
        study = self.study_
        queries = per_sample_gradients(self.model_, study.loss, study.test.subset(test_ids))
        for name, weights in self.inverse_fisher_.items():
            queries[name] *= weights
        return inner_products(self.model_, study.loss, study.train, queries)

    def _mislabel_scores(self) -> Tensor:
        return squared_norms(self.model_, self.study_.loss, self.study_.train, self.inverse_fisher_)

    def _label_influence(self) -> Tensor:
        study, classes = self.study_, self.study_.num_classes
        score = squared_norms_of_labels
        norms = label_scores(
            self.model_, study.loss, study.train, self.inverse_fisher_, classes, score, self.top_labels
        )
        return -norms.to(next(self.model_.parameters()).dtype)


@dataclass
class FVM(FlatValidationTuned, VM):
    r"""Influence at a *flat* minimum of the validation loss ("flat validation minima", section 3.4).

    As ``VM``, but the model is tuned on the validation set with sharpness-aware minimisation, which bounds the error of
    the estimate by the sharpness of the validation loss (eq. 11 and 12). Mislabel score q, influence and label
    influence are those of ``VM``, and so are the arguments that are not named here.

    Args:
        solver: "sam", or "asam", "fsam" (the best of the paper's Table 12) or "lpf" (its choice for text and images).
        rho: radius of the ascent (gamma in the paper), which took 0.05 for SAM on CIFAR-10N and 0.1 on CIFAR-100N and
            does not say what it took for the others. ``None`` for the solver's own default: SAM 0.05, ASAM 0.5,
            F-SAM 0.2.
        eta: of ASAM, beside the weights' sizes.
        sigma: of F-SAM, share of the mean gradient that its ascent leaves out.
        decay: of F-SAM's moving mean.
        gamma: of LPF-SGD, noise relative to the filters' norms.
        parts: of LPF-SGD, parts of a batch with noise of their own; the paper took 1.
    """

    name: ClassVar[str] = "fvm"
    title: ClassVar[str] = "FVM"
    paper: ClassVar[str] = "flat validation minima, 2025"
    cost: ClassVar[str] = "2 x steps x batch backward + (V + N) backward; label influence N forward and K N backward"
