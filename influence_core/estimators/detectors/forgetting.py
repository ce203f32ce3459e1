"""How often an image is forgotten in training: Forgetting."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from influence_core.errors import NotSupported
from influence_core.estimators.detectors.from_scratch import FromScratch
from influence_core.estimators.work import Work
from influence_core.models import model_outputs
from influence_core.pieces import piece
from influence_core.progress import track
from influence_core.study import Study
from influence_core.training import Checkpoint


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
    good_for: ClassVar[str] = "Shows what a long training keeps unlearning; weak where training is short"
    cost: ClassVar[str] = "epochs x N backward; from C checkpoints: C N forward"
    for_classes: ClassVar[frozenset[str]] = frozenset({"fit"})
    learned: ClassVar[tuple[str, ...]] = ("scores_",)

    source: Literal["training", "checkpoints"] = "training"
    break_ties: bool = False
    epoch_share: float = 1.0
    seed: int = 0

    def _check_parameters(self) -> None:
        self._check_share(self.epoch_share)

    def _unsuited(self, study: Study) -> list[str]:
        short = self.source == "checkpoints" and len(study.trajectory or ()) < 2
        return ["two checkpoints or more"] if short else []

    def _fit_work(self, study: Study) -> Work:
        if self.source == "training":
            return self._trained_work(study, self.epoch_share)
        return len(study.trajectory or ()) * Work(forward=len(study.train))

    def _fit(self, study: Study) -> None:
        log = _Log(study.train.labels)
        if self.source == "training":
            title = f"{self.title}: training"
            found = self._train(
                study, self.seed, title, lambda _: vars(log), epoch_share=self.epoch_share, watch=log.look
            )
            log.events, log.learned = found["events"], found["learned"]
        else:
            if study.trajectory is None or len(study.trajectory) < 2:
                raise NotSupported(
                    f"source='checkpoints' needs a trajectory of two checkpoints or more; the study {study.name!r} has "
                    f"{len(study.trajectory or ())}. source='training' needs none"
                )
            everything = torch.arange(len(study.train))

            def outputs_at(checkpoint: Checkpoint) -> dict[str, Tensor]:
                return {"outputs": model_outputs(study.at(checkpoint), study.train)}

            for number, checkpoint in enumerate(track(list(study.trajectory), f"{self.title}: checkpoints")):
                outputs = piece(f"checkpoint-{number}", partial(outputs_at, checkpoint))["outputs"]
                log.look(everything, outputs, study.train.labels)
        self.scores_ = log.scores()

    def _mislabel_scores(self) -> Tensor:
        if not self.break_ties:
            return self._of_scored(self.scores_).clone()
        generator = torch.Generator().manual_seed(self.seed)
        tie_break = 0.5 * torch.rand(len(self.scores_), generator=generator, dtype=self.scores_.dtype)
        return self._of_scored(self.scores_ + tie_break)


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
