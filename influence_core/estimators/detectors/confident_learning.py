"""Labels against predictions of models that never saw them: ConfidentLearning."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators.detectors.from_scratch import FromScratch
from influence_core.estimators.work import Work
from influence_core.models import model_outputs
from influence_core.study import Study
from influence_core.threads import FairLock, ignored_while_needed, uninterrupted

_rare_classes = ignored_while_needed(module="cleanlab|sklearn")
"""Warnings of classes with fewer images than folds, and of rare ones; the count says what was found."""

_cleanlab = FairLock()
"""It keeps a call's data in variables of its module."""

METHODS = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")


@dataclass
class ConfidentLearning(FromScratch):
    r"""Out-of-fold probability of the given label (Northcutt et al. 2021, "Confident learning").

    The training set is cut into F folds with the classes evenly spread. For each fold a model is trained from new
    weights on the others, and predicts the probabilities p of the images that it has not seen. The default score is

    .. math:: s(x, y) = 1 - p_y(x),

    in 0 to 1, which is 1 less cleanlab's label quality "self_confidence"; for the other two methods s is likewise one
    less cleanlab's quality. Large: probably mislabelled. The label influence is :math:`\log p` [N, K] in nats, out of
    fold: its argmax is what a model predicts that never saw the image's label. Such a suggestion holds where the
    study's own model has memorised its labels and repeats them; where it has not, its own prediction is the better
    one, made by a model of all images.

    **Every** image is scored out of its own fold. The code of the GEX comparison scores the last fold alone, and gives
    the rest a constant; with a perfect detector that leaves an AUC of 0.87, and its rows for this method show it.

    With F = 2 a model sees half of the images, so hard images look suspicious as well; more folds cost more and help
    where there are few images. Where cleanlab is installed, the scores' ``meta["label_issues"]`` counts the images off
    the diagonal of the confident joint (its filter "confident_learning"), and ``flagged_`` [N] says which; otherwise
    it is ``None``. A class with fewer images than folds is missing from some training sets, and its images look
    suspicious for that.

    Args:
        folds: F, at least 2.
        method: "self_confidence", or with cleanlab (``pip install influence-core[cleanlab]``) "normalized_margin" or
            "confidence_weighted_entropy".
        epoch_share: epochs of each training, as a share of those of the study's recipe.
        seed: of the folds, and of the first fold's weights and batches; the next folds count up from it.
    """

    name: ClassVar[str] = "confidentlearning"
    title: ClassVar[str] = "Confident learning"
    paper: ClassVar[str] = "Northcutt et al. 2021"
    good_for: ClassVar[str] = "Suggests labels even where the network knows the wrong ones by heart; trains anew"
    cost: ClassVar[str] = "(folds - 1) x epochs x N backward + N forward"
    reasons: ClassVar[dict[str, str]] = dict.fromkeys(
        ("influence", "self_influence", "parameter_change"),
        "it asks models that never saw an image, and not what the image does to the model",
    )
    for_classes: ClassVar[frozenset[str]] = frozenset({"fit"})
    by_rows: ClassVar[frozenset[str]] = frozenset({"mislabel_scores", "label_influence"})
    learned: ClassVar[tuple[str, ...]] = ("flagged_", "log_probabilities_", "scores_")

    folds: int = 2
    method: Literal["self_confidence", "normalized_margin", "confidence_weighted_entropy"] = "self_confidence"
    epoch_share: float = 1.0
    seed: int = 0

    def _check_parameters(self) -> None:
        if self.folds < 2:
            raise InvalidInput(f"folds is {self.folds}; at least 2, so that each image has a model that never saw it")
        self._check_share(self.epoch_share)

    def _fit_work(self, study: Study) -> Work:
        training = self._trained_work(study, self.epoch_share, share=1 - 1 / self.folds)
        return self.folds * training + Work(forward=len(study.train))

    def _fit(self, study: Study) -> None:
        if self.method != "self_confidence" and not _has_cleanlab():
            raise NotSupported(
                f"method={self.method!r} comes from cleanlab, which is not installed: pip install "
                "'influence-core[cleanlab]'. method='self_confidence' does without"
            )
        with uninterrupted():
            from sklearn.model_selection import StratifiedKFold

        labels = study.train.labels
        largest = int(labels.bincount().max())
        if largest < self.folds:
            raise InvalidInput(f"folds is {self.folds}, but the largest class has {largest} training images")
        logs = torch.full((len(labels), study.num_classes), float("nan"), dtype=torch.float64)
        with _rare_classes():
            splits = StratifiedKFold(self.folds, shuffle=True, random_state=self.seed % 2**32)
            folds = list(splits.split(labels.numpy(), labels.numpy()))

        def logs_of(held_out: Tensor, model: nn.Module) -> dict[str, Tensor]:
            return {"logs": model_outputs(model, study.train, held_out).double().log_softmax(1)}

        for fold, (rest, held_out) in enumerate(folds):
            title = f"{self.title}: fold {fold + 1} of {self.folds}"
            taught, ids = torch.from_numpy(rest), torch.from_numpy(held_out)
            of = partial(logs_of, ids)
            found = self._train(study, self.seed + fold, title, of, ids=taught, epoch_share=self.epoch_share)
            logs[ids] = found["logs"]
        self.log_probabilities_ = logs
        self.scores_ = 1 - logs.exp()[torch.arange(len(labels)), labels]
        self.flagged_: Tensor | None = None
        if _has_cleanlab():
            self._ask_cleanlab(labels.numpy(), logs.exp().numpy())

    def _ask_cleanlab(self, labels: Any, probabilities: Any) -> None:
        with _cleanlab, _rare_classes():
            rank, find = importlib.import_module("cleanlab.rank"), importlib.import_module("cleanlab.filter")
            if self.method != "self_confidence":
                quality = rank.get_label_quality_scores(labels, probabilities, method=self.method)
                self.scores_ = 1 - torch.as_tensor(quality, dtype=torch.float64)
            flags = find.find_label_issues(labels, probabilities, filter_by="confident_learning", n_jobs=1)
        self.flagged_ = torch.as_tensor(flags)

    def _mislabel_scores(self) -> Tensor:
        return self._of_scored(self.scores_).clone()

    def _label_influence(self) -> Tensor:
        return self._of_scored(self.log_probabilities_).clone()

    def _facts(self) -> dict[str, Any]:
        return super()._facts() | {"label_issues": None if self.flagged_ is None else int(self.flagged_.sum())}


def _has_cleanlab() -> bool:
    try:
        importlib.import_module("cleanlab")
    except ImportError:
        return False
    return True
