"""The norm of the error early in training: EL2N."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from influence_core.errors import InvalidInput
from influence_core.estimators.detectors.from_scratch import FromScratch, one_hot, recipe_of
from influence_core.estimators.work import Work
from influence_core.models import model_outputs
from influence_core.study import Study


@dataclass
class EL2N(FromScratch):
    r"""Norm of the error early in training (Paul et al. 2021, "Deep learning on a data diet").

    R models with new weights :math:`\theta_r` are trained for a short time. With
    :math:`p = \mathrm{softmax}(f(x, \theta_r))` in eval mode,

    .. math:: s(x, y) = \frac1R\sum_r \lVert p(x, \theta_r) - e_y\rVert_2 .

    Scores lie between 0 and the root of 2 (2 if squared). Large: not learned yet, so probably mislabelled, or hard.

    The paper trains for 20 of 200 epochs, the code of the GEX comparison for 10, which is the tenth that
    ``epoch_share`` asks for; that code takes the squared norm. A tenth of a short recipe on a small training set leaves
    a model that has learned nothing, so that there is a least number of epochs as well. Trained for too long, wrong
    labels are memorised and the score fails. Both codes stop inside the long schedule, whose learning rate is still
    high; here the learning rate falls to 0 over the short training, so that the last steps do not scatter the scores.

    Args:
        runs: R, new models.
        epoch_share: epochs of a run, as a share of those of the study's recipe.
        min_epochs: of a run; a recipe with fewer is trained to its end.
        squared: take the squared norm.
        seed: of the first run's weights and batches; the next runs count up from it.
    """

    name: ClassVar[str] = "el2n"
    title: ClassVar[str] = "EL2N"
    paper: ClassVar[str] = "Paul et al. 2021"
    good_for: ClassVar[str] = "Finds wrong labels without clean images, even those known by heart; trains anew"
    cost: ClassVar[str] = "runs x epochs x N backward + runs x N forward"
    for_classes: ClassVar[frozenset[str]] = frozenset({"fit"})
    learned: ClassVar[tuple[str, ...]] = ("scores_",)

    runs: int = 5
    epoch_share: float = 0.1
    min_epochs: int = 6
    squared: bool = False
    seed: int = 0

    def _check_parameters(self) -> None:
        if self.runs < 1:
            raise InvalidInput(f"runs is {self.runs}; at least one model has to be trained")
        if self.min_epochs < 1:
            raise InvalidInput(f"min_epochs is {self.min_epochs}; at least one epoch has to be trained")
        self._check_share(self.epoch_share)

    def _fit_work(self, study: Study) -> Work:
        return self.runs * (self._trained_work(study, self._share(study)) + Work(forward=len(study.train)))

    def _share(self, study: Study) -> float:
        """Of the recipe's epochs."""
        whole = recipe_of(study).epochs
        return max(self.epoch_share, min(self.min_epochs, whole) / whole)

    def _fit(self, study: Study) -> None:
        share = self._share(study)
        scores = torch.zeros(len(study.train), dtype=torch.float64)

        def norms_of(model: nn.Module) -> dict[str, Tensor]:
            p = model_outputs(model, study.train).softmax(1)
            return {"norms": (p - one_hot(study.train.labels, p)).norm(dim=1)}

        for run in range(self.runs):
            title = f"{self.title}: training {run + 1} of {self.runs}"
            norms = self._train(study, self.seed + run, title, norms_of, epoch_share=share)["norms"]
            scores += (norms.square() if self.squared else norms) / self.runs
        self.scores_ = scores

    def _mislabel_scores(self) -> Tensor:
        return self._of_scored(self.scores_).clone()
