"""Where outputs come from: the trained model, its checkpoints, or new models that hardly know the labels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput
from influence_core.estimators.detectors.from_scratch import FromScratch, recipe_of
from influence_core.estimators.flat_minima.tuning import FlatValidationTuned
from influence_core.estimators.outputs_only.margins import mean_log_probabilities
from influence_core.estimators.work import Work
from influence_core.models import model_outputs
from influence_core.pieces import piece
from influence_core.progress import track
from influence_core.study import Study

Source = Literal["model", "checkpoints", "early", "folds"]


@dataclass
class AskedModels(FlatValidationTuned, FromScratch):
    """Base of estimators that look at nothing but what models say of an image, and the label it was given.

    Several models count as one that gives the mean of their probabilities.

    Args:
        source: "model" asks the trained one; "checkpoints" those of the study's trajectory; "early" trains ``runs``
            new ones for a short time, which know no label by heart yet; "folds" trains a new one for each of ``folds``
            parts of the training set on the others, so that none has seen the label it is asked about.
        tuned: whether each of these models is tuned on the clean validation set first, as in ``TunedLoss``; ``None``
            tunes where there is one. ``steps`` and the settings after it are those of the tuning.
        runs: new models of "early".
        folds: parts of "folds", at least 2.
        epoch_share: epochs of a training of "early", as a share of those of the study's recipe, with ``min_epochs`` at
            least; "folds" trains to the end.
        min_epochs: likewise.
        seed: of the weights and batches of new models, of the folds and of the tuning.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    for_classes: ClassVar[frozenset[str]] = frozenset({"fit"})
    by_rows: ClassVar[frozenset[str]] = frozenset({"mislabel_scores", "label_influence"})
    reasons: ClassVar[dict[str, str]] = dict.fromkeys(
        ("influence", "self_influence", "parameter_change"),
        "it looks at what models say of an image, not at what the image does to a model",
    )

    source: Source = "model"
    tuned: bool | None = None
    runs: int = 5
    folds: int = 5
    epoch_share: float = 0.1
    min_epochs: int = 6

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.runs < 1:
            raise InvalidInput(f"runs is {self.runs}; at least one model has to be trained")
        if self.folds < 2:
            raise InvalidInput(f"folds is {self.folds}; at least 2, so that each image has a model that never saw it")
        if self.min_epochs < 1:
            raise InvalidInput(f"min_epochs is {self.min_epochs}; at least one epoch has to be trained")
        self._check_share(self.epoch_share)

    def _unsuited(self, study: Study) -> list[str]:
        lacking = []
        if self.source == "checkpoints" and study.trajectory is None:
            lacking.append("checkpoints")
        if self.tuned and study.validation is None:
            lacking.append("a validation set")
        return lacking

    def _tunes(self, study: Study) -> bool:
        return study.validation is not None if self.tuned is None else self.tuned

    def _share(self, study: Study) -> float:
        """Of the recipe's epochs, for "early"."""
        whole = recipe_of(study).epochs
        return max(self.epoch_share, min(self.min_epochs, whole) / whole)

    def _models(self, study: Study) -> int:
        return {
            "model": 1,
            "checkpoints": len(study.trajectory or ()),
            "early": self.runs,
            "folds": self.folds,
        }[self.source]

    def _fit_work(self, study: Study) -> Work:
        asked = Work(forward=len(study.train) + len(study.validation or ()))
        if self._tunes(study):
            asked = asked + self._tuned_work(study)
        if self.source == "early":
            asked = asked + self._trained_work(study, self._share(study))
        if self.source == "folds":
            asked = asked + self._trained_work(study, 1.0, share=1 - 1 / self.folds)
        return self._models(study) * asked

    def _said(self, study: Study) -> tuple[Tensor, Tensor | None]:
        """What the models say: log probabilities of the training images [N, K] and the validation images [V, K]."""
        if self.source == "folds":
            return self._out_of_fold(study)
        found = list(self._answers(study))
        validation = [one["validation"] for one in found if "validation" in one]
        train = mean_log_probabilities([one["train"] for one in found])
        return train, mean_log_probabilities(validation) if validation else None

    def _answers(self, study: Study) -> Iterator[dict[str, Tensor]]:
        ask = self._asking(study, study.train)
        if self.source == "early":
            for run in range(self.runs):
                title = f"{self.title}: training {run + 1} of {self.runs}"
                yield self._train(study, self.seed + run, title, ask, epoch_share=self._share(study))
        elif self.source == "checkpoints":
            checkpoints = list(study.trajectory or ())
            for number, checkpoint in enumerate(track(checkpoints, f"{self.title}: checkpoints")):
                yield piece(f"checkpoint-{number}", partial(ask, study.at(checkpoint)))
        else:
            yield piece("model", partial(ask, study.model))

    def _out_of_fold(self, study: Study) -> tuple[Tensor, Tensor | None]:
        train = torch.full((len(study.train), study.num_classes), float("nan"), dtype=torch.float64)
        validation = []
        for fold, (rest, held_out) in enumerate(self._split(study.train.labels)):
            title = f"{self.title}: fold {fold + 1} of {self.folds}"
            ask = self._asking(study, study.train.subset(held_out))
            found = self._train(study, self.seed + fold, title, ask, ids=rest)
            train[held_out] = found["train"].double().log_softmax(1)
            validation += [found["validation"]] if "validation" in found else []
        return train, mean_log_probabilities(validation) if validation else None

    def _split(self, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The folds, each with what is not in it; every class is spread as evenly as it goes."""
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(labels), generator=generator)
        order = order[torch.sort(labels[order], stable=True).indices]
        fold = torch.empty(len(labels), dtype=torch.long)
        fold[order] = torch.arange(len(labels)) % self.folds
        return [(torch.where(fold != one)[0], torch.where(fold == one)[0]) for one in range(self.folds)]

    def _asking(self, study: Study, images: LabelledDataset) -> Callable[[nn.Module], dict[str, Tensor]]:
        """A model, tuned first where that is wanted -> what it says of some images and of the validation images."""
        return partial(self._ask, study, images)

    def _ask(self, study: Study, images: LabelledDataset, model: nn.Module) -> dict[str, Tensor]:
        if self._tunes(study):
            model = self._tune(copy.deepcopy(model), study).eval()
        said = {"train": model_outputs(model, images)}
        return said if study.validation is None else said | {"validation": model_outputs(model, study.validation)}
