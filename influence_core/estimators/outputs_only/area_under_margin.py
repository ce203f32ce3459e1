"""The margin of the given label, averaged over training: AreaUnderMargin."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from influence_core.errors import NotSupported
from influence_core.estimators.detectors.from_scratch import FromScratch
from influence_core.estimators.outputs_only.margins import label_margins
from influence_core.estimators.work import Work
from influence_core.models import model_outputs
from influence_core.pieces import piece
from influence_core.progress import track
from influence_core.scores import Scale
from influence_core.study import Study
from influence_core.training import Checkpoint


@dataclass
class AreaUnderMargin(FromScratch):
    r"""The margin of the given label, averaged over training: AUM (Pleiss et al. 2020, "Identifying mislabeled data").

    With the logits z of an image at the moments :math:`t = 1 \dots T` in which it is looked at,

    .. math:: \mathrm{AUM}(x, y) = \frac1T\sum_t \Bigl(z_y^{(t)} - \max_{k \ne y} z_k^{(t)}\Bigr), \qquad
              s(x, y) = -\mathrm{AUM}(x, y) ,

    in nats: large where images like it taught another label for most of the training, even if this one was learnt by
    heart in the end. As in the paper, a model is trained from new weights, and an image is looked at whenever its batch
    is drawn, in training mode, before the step is taken. The paper stops before the learning rate first falls;
    ``epoch_share`` does likewise. Its threshold from images with a made-up class is not taken: see
    ``ic.applications.detect`` for cuts.

    The influence of a label k is the same mean with k in the place of y.

    Args:
        source: "training" trains anew; "checkpoints" averages over the checkpoints of the study's trajectory, in eval
            mode: coarser, but without training.
        epoch_share: epochs of the training, as a share of those of the study's recipe.
        seed: of the weights and the batches.
    """

    name: ClassVar[str] = "areaundermargin"
    title: ClassVar[str] = "Area under the margin"
    paper: ClassVar[str] = "Pleiss et al. 2020"
    good_for: ClassVar[str] = "Watches one training, without clean images, and suggests labels; trains anew"
    cost: ClassVar[str] = "epochs x N backward; from C checkpoints: C N forward"
    reasons: ClassVar[dict[str, str]] = {
        method: reason for method, reason in FromScratch.reasons.items() if method != "label_influence"
    }
    for_classes: ClassVar[frozenset[str]] = frozenset({"fit"})
    by_rows: ClassVar[frozenset[str]] = frozenset({"mislabel_scores", "label_influence"})
    scales: ClassVar[dict[str, Scale]] = {"mislabel": "nats", "label_influence": "nats"}
    learned: ClassVar[tuple[str, ...]] = ("margins_",)

    source: Literal["training", "checkpoints"] = "training"
    epoch_share: float = 1.0
    seed: int = 0

    def _check_parameters(self) -> None:
        self._check_share(self.epoch_share)

    def _unsuited(self, study: Study) -> list[str]:
        return ["checkpoints"] if self.source == "checkpoints" and study.trajectory is None else []

    def _fit_work(self, study: Study) -> Work:
        if self.source == "training":
            return self._trained_work(study, self.epoch_share)
        return len(study.trajectory or ()) * Work(forward=len(study.train))

    def _fit(self, study: Study) -> None:
        log = _Log(len(study.train), study.num_classes)
        if self.source == "training":
            title = f"{self.title}: training"
            share = self.epoch_share
            found = self._train(study, self.seed, title, lambda _: vars(log), epoch_share=share, watch=log.look)
            log.sums, log.looks = found["sums"], found["looks"]
        else:
            if study.trajectory is None:
                raise NotSupported(
                    f"source='checkpoints' needs a trajectory; the study {study.name!r} has none. source='training' "
                    "needs none"
                )
            everything = torch.arange(len(study.train))

            def outputs_at(checkpoint: Checkpoint) -> dict[str, Tensor]:
                return {"outputs": model_outputs(study.at(checkpoint), study.train)}

            for number, checkpoint in enumerate(track(list(study.trajectory), f"{self.title}: checkpoints")):
                log.look(everything, piece(f"checkpoint-{number}", partial(outputs_at, checkpoint))["outputs"])
        self.margins_ = log.sums / log.looks.clamp_min(1)[:, None]

    def _mislabel_scores(self) -> Tensor:
        given = self._of_scored(self.study_.train.labels)
        return self._of_scored(self.margins_).gather(1, given[:, None])[:, 0]

    def _label_influence(self) -> Tensor:
        return -self._of_scored(self.margins_)


class _Log:
    """Outputs as they come, reduced to the sum of each label's margin."""

    def __init__(self, size: int, classes: int) -> None:
        self.sums = torch.zeros(size, classes, dtype=torch.float64)
        self.looks = torch.zeros(size, dtype=torch.float64)

    def look(self, ids: Tensor, outputs: Tensor, labels: Tensor | None = None) -> None:
        self.sums[ids] += label_margins(outputs.detach().cpu().double())
        self.looks[ids] += 1
