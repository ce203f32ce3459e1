"""Scores from how training goes: EL2N and forgetting events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators.from_scratch import FromScratch, one_hot, recipe_of
from influence_core.progress import track
from influence_core.study import Study, model_outputs


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
    cost: ClassVar[str] = "runs x epochs x N backward + runs x N forward"
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

    def _fit(self, study: Study) -> None:
        whole = recipe_of(study).epochs
        share = max(self.epoch_share, min(self.min_epochs, whole) / whole)
        scores = torch.zeros(len(study.train), dtype=torch.float64)
        for run in range(self.runs):
            title = f"{self.title}: training {run + 1} of {self.runs}"
            model = self._train(study, self.seed + run, title, epoch_share=share)
            p = model_outputs(model, study.train).softmax(1)
            norms = (p - one_hot(study.train.labels, p)).norm(dim=1)
            scores += (norms.square() if self.squared else norms) / self.runs
        self.scores_ = scores

    def _mislabel_scores(self) -> Tensor:
        return self.scores_.clone()


@dataclass
class Forgetting(FromScratch):
    r"""How often an image is forgotten in training: the F-score (Toneva et al. 2019, section 3).

    A forgetting event is a change from a right to a wrong prediction of the given label between two moments in which
    the image is looked at:

    .. math:: s(x, y) = \#\{t : \arg\max f(x, \theta_{t-1}) = y,\ \arg\max f(x, \theta_t) \ne y\} .

    As in the paper, a model is trained from new weights, and an image is looked at whenever its batch is drawn, in
    training mode, before the step is taken. Large: probably mislabelled, or hard. An image that is never learned is
    never forgotten either. It gets the largest count of all learned images plus one; the code of the GEX comparison
    gives it 0, the score of the easiest images, which puts the surest wrong labels last (its AUC on ImageNet is 1.6).

    Scores are small integers with many ties, and say little where training is short.

    Args:
        source: "training" trains anew and counts online; "checkpoints" counts over the checkpoints of the study's
            trajectory, in eval mode: coarser, but without training.
        break_ties: add a random number between 0 and 0.5, for pruning a given number of images.
        epoch_share: epochs of the training, as a share of those of the study's recipe.
        seed: of the weights, the batches and the tie-break.
    """

    name: ClassVar[str] = "forgetting"
    title: ClassVar[str] = "Forgetting"
    paper: ClassVar[str] = "Toneva et al. 2019"
    cost: ClassVar[str] = "epochs x N backward; from C checkpoints: C N forward"
    learned: ClassVar[tuple[str, ...]] = ("scores_",)

    source: Literal["training", "checkpoints"] = "training"
    break_ties: bool = False
    epoch_share: float = 1.0
    seed: int = 0

    def _check_parameters(self) -> None:
        if self.source not in ("training", "checkpoints"):
            raise InvalidInput(f"source is {self.source!r}; choose 'training' or 'checkpoints'")
        self._check_share(self.epoch_share)

    def _fit(self, study: Study) -> None:
        log = _Log(study.train.labels)
        if self.source == "training":
            self._train(study, self.seed, f"{self.title}: training", epoch_share=self.epoch_share, watch=log.look)
        else:
            if study.trajectory is None or len(study.trajectory) < 2:
                raise NotSupported(
                    f"source='checkpoints' needs a trajectory of two checkpoints or more; the study {study.name!r} has "
                    f"{len(study.trajectory or ())}. source='training' needs none"
                )
            everything = torch.arange(len(study.train))
            for checkpoint in track(list(study.trajectory), f"{self.title}: checkpoints"):
                log.look(everything, model_outputs(study.at(checkpoint), study.train), study.train.labels)
        self.scores_ = log.scores()

    def _mislabel_scores(self) -> Tensor:
        if not self.break_ties:
            return self.scores_.clone()
        generator = torch.Generator().manual_seed(self.seed)
        return self.scores_ + 0.5 * torch.rand(len(self.scores_), generator=generator, dtype=self.scores_.dtype)


class _Log:
    """Predictions as they come, reduced to what forgetting is about."""

    def __init__(self, labels: Tensor) -> None:
        self.right = torch.zeros(len(labels), dtype=torch.bool)
        self.learned = torch.zeros(len(labels), dtype=torch.bool)
        self.events = torch.zeros(len(labels), dtype=torch.float64)

    def look(self, ids: Tensor, outputs: Tensor, labels: Tensor) -> None:
        right = (outputs.argmax(1) == labels).cpu()
        self.events[ids] += (self.right[ids] & ~right).double()
        self.learned[ids] |= right
        self.right[ids] = right

    def scores(self) -> Tensor:
        most = self.events[self.learned].max() if bool(self.learned.any()) else self.events.new_zeros(())
        return torch.where(self.learned, self.events, most + 1)
