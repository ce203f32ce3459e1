"""The probability that a label is wrong, learnt from planted flips: CalibratedDetector."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from influence_core.data import LabelledDataset, join
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators.base import Estimator
from influence_core.estimators.detectors import planted_flips
from influence_core.estimators.detectors.from_scratch import FromScratch, recipe_of
from influence_core.estimators.registry import get
from influence_core.estimators.work import Work, passes_of, trained
from influence_core.pieces import parts, piece
from influence_core.progress import track
from influence_core.scores import Scale
from influence_core.study import Study
from influence_core.training import fit_fresh

FEW = 30
"""Planted flips below which the probabilities are called rough."""

LEAST = 2
"""Images of either kind without which nothing can be learnt."""


@dataclass
class CalibratedDetector(Estimator):
    r"""The probability that a label is wrong, learnt from flips planted among clean images (a method of this package).

    A score says which label is more suspicious, not how likely it is wrong. Here that is learnt on images whose truth
    is known. The clean validation set is cut into folds; of each fold a share gets wrong labels and the rest keeps its
    own, the fold joins the training set, a model is trained anew on both with the study's recipe, and the detectors
    score all of it, with the other folds as their validation set. A wrong label of class k is drawn as the training
    set has them: as often as images that look like k are labelled so.

    With :math:`r_j` the rank of an image's score by detector j among the training images of the same fit,

    .. math:: \log\frac{P(\text{wrong})}{1 - P(\text{wrong})} = a + \sum_j b_j \log\frac{r_j}{N + 1 - r_j},
              \qquad b_j \ge 0,

    by logistic regression (Platt 1999) on the planted and the untouched images of all folds: one detector is
    calibrated, several are stacked. How many training labels are wrong need not be the planted share: the intercept is
    moved to the share that agrees with its own mean probability (Saerens et al. 2002).

    What to call the image comes from the first of the detectors that suggests labels, or else from the trained model's
    probabilities; how often such a suggestion is right is learnt from the planted flips likewise, from the rank of the
    suggested label's lead over the next. The score is P(wrong); the "influence" of a label k is P(true label is k).

    It holds as far as the planted flips are like the real ones, and the clean images like the training images. People
    err on hard images, where flips are planted on any: the probabilities are then too far from one half.

    Args:
        detectors: names of estimators with mislabel scores and default settings, joined by commas.
        folds: parts of the validation set, each with a training of its own; at least 2.
        share: of the clean images that get a wrong label, between 0 and 1.
        seed: of the folds, the flips and the trainings.
    """

    name: ClassVar[str] = "calibrated"
    title: ClassVar[str] = "Calibrated detector"
    paper: ClassVar[str] = "this package; after Platt 1999, Saerens et al. 2002"
    good_for: ClassVar[str] = "Says how likely a label is wrong, a suggestion right; needs clean images, trains anew"
    needs: ClassVar[frozenset[str]] = frozenset({"validation"})
    cost: ClassVar[str] = "(1 + folds) x detectors + folds x epochs x N backward"
    for_classes: ClassVar[frozenset[str]] = frozenset({"fit"})
    by_rows: ClassVar[frozenset[str]] = frozenset({"mislabel_scores", "label_influence"})
    reasons: ClassVar[dict[str, str]] = dict.fromkeys(
        ("influence", "self_influence", "parameter_change"),
        "it makes probabilities of other estimators' scores, and looks at no effect of its own",
    )
    scales: ClassVar[dict[str, Scale]] = {"mislabel": "probability", "label_influence": "probability"}
    exempt: ClassVar[dict[str, str]] = FromScratch.exempt
    learned: ClassVar[tuple[str, ...]] = ("probabilities_", "weights_", "prevalence_", "planted_")

    detectors: str = "priormargin,el2n"
    folds: int = 2
    share: float = 0.3
    seed: int = 0

    def _check_parameters(self) -> None:
        for one in self._chosen():
            if isinstance(one, CalibratedDetector) or "mislabel_scores" not in one.gives():
                raise InvalidInput(f"detectors is {self.detectors!r}, but {one.name} gives no scores to be calibrated")
        if self.folds < 2:
            raise InvalidInput(f"folds is {self.folds}; at least 2, so that the detectors have clean images as well")
        if not 0 < self.share < 1:
            raise InvalidInput(f"share is {self.share}; some clean images get a wrong label and some keep theirs")

    def _chosen(self) -> list[Estimator]:
        """The detectors, not fitted."""
        names = [name.strip() for name in self.detectors.split(",")]
        if len(set(names)) < len(names):
            raise InvalidInput(f"detectors is {self.detectors!r}; name each of them once")
        return [get(name) for name in names]

    def _unsuited(self, study: Study) -> list[str]:
        lacking = [word for one in self._chosen() for word in one.missing(study, "mislabel_scores")]
        if study.validation is not None and len(study.validation) < 2 * LEAST * self.folds:
            lacking.append(f"{2 * LEAST * self.folds} clean images")
        return list(dict.fromkeys(lacking))

    def _fit_work(self, study: Study) -> Work | None:
        works = [one.work(study, "mislabel_scores") for one in self._chosen()]
        total = Work()
        for found in works:
            if found is None:
                return None
            total = total + (1 + self.folds) * (found[0] + found[1])
        recipe = recipe_of(study)
        size = len(study.train) + len(study.split("validation")) // self.folds
        return total + self.folds * trained(size, recipe.epochs, recipe.batch_size, passes_of(recipe))

    def _call_work(self, study: Study, what: str, tests: int) -> Work:
        return Work()

    def _disk(self, study: Study) -> float:
        return 8.0 * len(study.train) * study.num_classes

    def _fit(self, study: Study) -> None:
        clean = study.split("validation")
        if len(clean) < 2 * LEAST * self.folds:
            raise NotSupported(
                f"{self.title} learns from clean images with planted flips, at least {2 * LEAST} in each of "
                f"{self.folds} folds; the validation set has {len(clean)}"
            )
        labels, classes = study.train.labels, study.num_classes
        with parts("training-set"):
            own = self._seen(study)
        wrong = planted_flips.transitions(own["suggests"].argmax(1), labels, classes)
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(clean), generator=generator)
        features, leads, planted, mended = [], [], [], []
        for fold in track(list(range(self.folds)), f"{self.title}: folds with planted flips"):
            ids = order[fold :: self.folds].sort().values
            flipped, flips = planted_flips.plant(clean.labels[ids], self.share, wrong, generator)
            made = partial(self._fold, study, clean, ids, flipped, fold)
            with parts(f"fold-{fold}"):
                seen = piece("scores", made)
            size = len(labels)
            features.append(_ranks(seen["scores"][:, size:], seen["scores"][:, :size]))
            suggested, lead = _suggestion(seen["suggests"], torch.cat([labels, flipped]))
            leads.append(planted_flips.logit_ranks(lead[size:][flips], lead[:size])[:, None])
            planted.append(flips)
            mended.append(suggested[size:][flips] == clean.labels[ids][flips])
        kinds = torch.cat(planted)
        self.weights_ = planted_flips.logistic(torch.cat(features), kinds)
        share = float(kinds.double().mean())
        odds = self.weights_[0] + _ranks(own["scores"], own["scores"]) @ self.weights_[1:]
        self.prevalence_ = planted_flips.prevalence(odds, share)
        self.planted_ = int(kinds.sum())
        suggested, lead = _suggestion(own["suggests"], labels)
        rule = planted_flips.logistic(torch.cat(leads), torch.cat(mended))
        right = torch.sigmoid(rule[0] + planted_flips.logit_ranks(lead, lead) * rule[1])
        is_wrong = planted_flips.shifted(odds, share, self.prevalence_)
        self.probabilities_ = _spread(is_wrong, right, labels, suggested, classes)

    def _fold(self, study: Study, clean: LabelledDataset, ids: Tensor, flipped: Tensor, fold: int) -> dict[str, Tensor]:
        """What the detectors say of the training set and a fold with planted flips, of a model trained on both."""
        rest = torch.ones(len(clean), dtype=torch.bool)
        rest[ids] = False
        train = join([study.train, clean.subset(ids).with_labels(flipped)])
        recipe = recipe_of(study)
        model, trajectory = fit_fresh(
            study.model,
            train,
            recipe,
            seed=self.seed + fold,
            loss=study.loss,
            title=f"{self.title}: training with fold {fold + 1} of {self.folds}",
            checkpoints=max(1, len(study.trajectory or ())),
        )
        name = f"{study.name}, fold {fold + 1} planted"
        made = study.replaced(model=model, train=train, validation=clean.subset(rest), trajectory=trajectory, name=name)
        return self._seen(made)

    def _seen(self, study: Study) -> dict[str, Tensor]:
        """Scores of all detectors [d, N], and what says which label suits an image [N, K]."""
        scores, suggests = [], None
        for one in self._chosen():
            with parts(one.name):
                one.fit(study)
                scores.append(one.mislabel_scores().values.double())
                if suggests is None and "label_influence" in one.gives():
                    suggests = one.label_influence().values.double()
        if suggests is None:
            suggests = study.outputs("train").double().log_softmax(1).cpu()
        return {"scores": torch.stack(scores), "suggests": suggests}

    def _mislabel_scores(self) -> Tensor:
        given = self._of_scored(self.study_.train.labels)
        return 1 - self._of_scored(self.probabilities_).gather(1, given[:, None])[:, 0]

    def _label_influence(self) -> Tensor:
        return self._of_scored(self.probabilities_).clone()

    def _facts(self) -> dict[str, Any]:
        few = (
            [f"Learnt from {self.planted_} planted flips only: the probabilities are rough. More clean images help."]
            if self.planted_ < FEW
            else []
        )
        facts = {
            "planted": self.planted_,
            "expected_share_wrong": self.prevalence_,
            "weights": dict(zip(["intercept", *self.detectors.split(",")], self.weights_.tolist(), strict=True)),
        }
        return super()._facts() | facts | ({"warnings": few} if few else {})


def _ranks(scores: Tensor, among: Tensor) -> Tensor:
    """Features [n, d] of scores [d, n]."""
    return torch.stack(
        [planted_flips.logit_ranks(one, all_of_it) for one, all_of_it in zip(scores, among, strict=True)], 1
    )


def _suggestion(suggests: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The best label that is not the given one [n], and its lead over the next such label."""
    others = suggests.scatter(1, labels[:, None], -torch.inf)
    best = others.topk(min(2, others.shape[1] - 1), dim=1)
    lead = best.values[:, 0] - best.values[:, -1]
    return best.indices[:, 0], lead


def _spread(is_wrong: Tensor, right: Tensor, labels: Tensor, suggested: Tensor, classes: int) -> Tensor:
    """P(true label is k) [N, K]: of the given label, of the suggested one, and what is left, alike for all others."""
    right = right if classes > 2 else torch.ones_like(right)
    rest = is_wrong * (1 - right) / max(1, classes - 2)
    found = rest[:, None].repeat(1, classes)
    found.scatter_(1, suggested[:, None], (is_wrong * right)[:, None])
    return found.scatter_(1, labels[:, None], (1 - is_wrong)[:, None])
