"""Detecting mislabelled images: one cut through the scores, and curves with intervals where the truth is known."""

from __future__ import annotations

import html
import operator
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from influence_core.applications.bootstrap import Bands, Interval, bootstrap
from influence_core.applications.label_probabilities import SOURCES, LabelProbabilities
from influence_core.applications.ranking import Integers, Ranking
from influence_core.applications.reliability import Reliability, reliability
from influence_core.applications.thresholds import heavy_tailed, otsu
from influence_core.errors import InvalidInput, NotSupported, StaleResult
from influence_core.estimators.together import EstimatorLike, fitted_on
from influence_core.scores import Scores
from influence_core.serving import Link
from influence_core.study import Study

__all__ = ["Bands", "Detection", "Interval", "bootstrap", "detect", "heavy_tailed", "otsu"]


EVEN = 0.5
"""Probability above which a label is rather wrong than right."""


@dataclass(frozen=True, eq=False)
class Detection:
    """How well scores separate wrong labels from right ones, and the set of images that is flagged.

    The set is always that of the images with a score above a threshold, so images of one score stay together. It is
    chosen by ``cut``, ``budget``, ``at_precision`` or ``at_recall``; each gives a new detection.

    Attributes:
        scores: mislabel or self-influence scores, of all training images or of those given to ``within``.
        threshold: images with a larger score are flagged; compared in float64.
        flagged: ids of the flagged training images, most suspicious first, int64.
        ranking: the order of suspicion and the sets that a threshold can make.
        quality: how likely each label of the training set is wrong, and how that is known.
        seed: of the bootstrap.
        corrupted: which labels are known to be wrong, bool [N]; ``None`` if the truth is unknown. Everything below is
            ``None`` then, and where all labels are right or all are wrong.
        roc: false_positive_rate, true_positive_rate, threshold: scores of at least the threshold count as flagged.
        pr: recall, precision, threshold, likewise.
        checked: the detection curve (SAM attribution paper, figures 1b and 3): number of images checked, most
            suspicious first, wrong labels found among them, and a threshold that flags just these; one row for each
            set that a threshold can make, from none to all.
        auc: area under the ROC curve, 0 to 1.
        ap: average precision, 0 to 1; a random order has the share of wrong labels.
        auc_interval: bootstrap over training images, 95 %.
        ap_interval: likewise.
        bands: pointwise 95 % bands of the three curves, from the same resamples.
    """

    scores: Scores
    threshold: float
    flagged: Tensor
    ranking: Ranking = field(repr=False)
    quality: LabelProbabilities = field(repr=False)
    seed: int = 0
    corrupted: Tensor | None = None
    roc: pd.DataFrame | None = None
    pr: pd.DataFrame | None = None
    checked: pd.DataFrame | None = None
    auc: float | None = None
    ap: float | None = None
    auc_interval: Interval | None = None
    ap_interval: Interval | None = None
    bands: Bands | None = None

    def open_app(self) -> Link:
        """Show the flagged images in the app; see ``Study.open_app``.

        Returns:
            The link.

        Raises:
            NotSupported: if the scores were read from a file, which does not hold the study.
        """
        study = self.scores.study
        if study is None or not len(self.flagged):
            return self.scores.open_app()
        link: Link = study.open_app("mislabels", estimator=self.scores.name, flag=len(self.flagged))
        return link

    def at(self, threshold: float) -> dict[str, float]:
        """What flagging every score above ``threshold`` means.

        Args:
            threshold: to try.

        Returns:
            flagged (a count) and, where the truth is known, precision and, if there is any wrong label, recall.
        """
        place = self.ranking.place(_number(threshold, "threshold"))
        flagged = float(self.ranking.sizes[place])
        result = {"flagged": flagged}
        if self.ranking.found is not None:
            found, wrong = float(self.ranking.found[place]), float(self.ranking.found[-1])
            result["precision"] = found / max(1.0, flagged)
            if wrong:
                result["recall"] = found / wrong
        return result

    @property
    def probabilities(self) -> Tensor:
        """P(label is wrong) of each image that has a score, float64 [N]; ``quality.source`` says how it is known."""
        return self.quality.of(self.scores.train_ids)

    @property
    def expected_precision(self) -> float | None:
        """Share of the flagged images whose label is expected to be wrong, 0 to 1; ``None`` without any flag."""
        return float(self.quality.of(self.flagged).mean()) if len(self.flagged) else None

    def reliability(self, bins: int = 10) -> Reliability:
        """Whether the probabilities hold, where the truth is known.

        Args:
            bins: of one width.

        Returns:
            Said against happened; see ``ic.figures.reliability``.

        Raises:
            NotSupported: if the truth is unknown.
        """
        if self.corrupted is None:
            raise NotSupported(
                "reliability compares probabilities with the truth, and true labels are not known: "
                "LabelledDataset(..., true_labels=...)"
            )
        return reliability(self.probabilities, self.corrupted, bins, SOURCES[self.quality.source])

    def cut(self, threshold: float) -> Detection:
        """The same scores with another threshold; curves, areas and intervals do not depend on it.

        Args:
            threshold: flag the images with a larger score.

        Returns:
            A detection that shares all but the threshold and the flags.
        """
        threshold = _number(threshold, "threshold")
        return replace(self, threshold=threshold, flagged=self.ranking.ids[: self.ranking.above(threshold)])

    def budget(self, count: int) -> Detection:
        """Flag the most suspicious images, as many as there is time to look at.

        Args:
            count: images to flag, 0 to N.

        Returns:
            A detection whose threshold lies midway between the last flagged score and the next one. Where scores tie
            across the cut, the largest set of at most ``count`` that a threshold can make: ``len(.flagged)`` tells.

        Raises:
            InvalidInput: if ``count`` is not a whole number from 0 to N.
        """
        images = len(self.ranking.values)
        try:
            wanted = operator.index(count)
        except TypeError:
            wanted = -1
        if not 0 <= wanted <= images:
            raise InvalidInput(f"a budget of {count!r} images; give a whole number from 0 to {images}")
        return self._choose(int(np.searchsorted(self.ranking.sizes, wanted, side="right")) - 1)

    def at_precision(self, precision: float) -> Detection:
        """Flag as many images as possible, so that at least this share of the flags is right.

        Args:
            precision: 0 to 1.

        Returns:
            The detection with the largest set that has the precision.

        Raises:
            InvalidInput: if ``precision`` is out of range or no set reaches it.
        """
        precision = _number(precision, "precision", 0.0, 1.0)
        sizes, found = self.ranking.sizes, self._truth("a precision")
        reached = found[1:] / sizes[1:]
        enough = np.flatnonzero(reached >= precision)
        if not enough.size:
            best = int(np.flatnonzero(reached == reached.max())[-1]) + 1
            raise InvalidInput(
                f"no set of the most suspicious images has a precision of {precision:g}; the best is "
                f"{found[best] / sizes[best]:.4g}, at {sizes[best]} images: ask for no more than that"
            )
        return self._choose(int(enough[-1]) + 1)

    def at_recall(self, recall: float) -> Detection:
        """Flag as few images as possible, so that at least this share of the wrong labels is among them.

        Args:
            recall: 0 to 1.

        Returns:
            The detection with the smallest set that has the recall.

        Raises:
            InvalidInput: if ``recall`` is out of range.
            NotSupported: if no label is known to be wrong.
        """
        recall = _number(recall, "recall", 0.0, 1.0)
        found = self._truth("a recall")
        if not found[-1]:
            raise NotSupported("a recall needs wrong labels, and here all labels are right: use .budget(count)")
        return self._choose(int(np.flatnonzero(found / found[-1] >= recall)[0]))

    def within(self, ids: Iterable[int] | Tensor) -> Detection:
        """The same scores and the same threshold, judged on some of the images only, such as those of one class.

        Args:
            ids: training images, each once, in any order.

        Returns:
            A detection of these images alone: scores, flags, curves, areas and intervals. It has no curves where all
            their labels are right or all are wrong.

        Raises:
            InvalidInput: if there is no id, or one is not a whole number, named twice, or without a score.
        """
        wanted = torch.from_numpy(_ids(ids))
        if not len(wanted):
            raise InvalidInput("there is no image to judge the scores on; give at least one training id")
        if len(wanted.unique()) != len(wanted):
            raise InvalidInput("a training image is named twice; give each id once")
        known = self.scores.train_ids
        unknown = wanted[~torch.isin(wanted, known)]
        if len(unknown):
            raise InvalidInput(
                f"no score for training image {int(unknown[0])}; there are {len(known)}, from {int(known.min())} "
                f"to {int(known.max())}"
            )
        chosen = torch.isin(known, wanted)
        scores = replace(self.scores, values=self.scores.values[chosen], train_ids=known[chosen])
        wrong = None if self.corrupted is None else self.corrupted[chosen]
        return _judged(scores, wrong, self.threshold, self.seed, self.quality)

    def _truth(self, what: str) -> Integers:
        """Wrong labels in each set that a threshold can make."""
        if self.ranking.found is None:
            raise NotSupported(
                f"{what} needs true labels for the training set: LabelledDataset(..., true_labels=...); without them, "
                "use .budget(count) or .cut(threshold)"
            )
        return self.ranking.found

    def _choose(self, place: int) -> Detection:
        """The set at a place of the ranking."""
        chosen = self.ranking.ids[: int(self.ranking.sizes[place])]
        return replace(self, threshold=float(self.ranking.thresholds[place]), flagged=chosen)

    def __repr__(self) -> str:
        """Areas with intervals and the number of flagged images."""
        if self.auc is not None:
            curves = f"AUC {self.auc:.3f}, AP {self.ap:.3f}, "
        else:
            curves = "truth unknown, " if self.corrupted is None else "labels of one kind, "
        return f"Detection({self.scores.name}: {curves}{len(self.flagged)} of {len(self.scores.values)} flagged)"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        now = self.at(self.threshold)
        rows = {"flagged": f"{len(self.flagged)} of {len(self.scores.values)}", "threshold": f"{self.threshold:.4g}"}
        if self.expected_precision is not None:
            rows["expected precision"] = f"{100 * self.expected_precision:.1f} %, {SOURCES[self.quality.source]}"
        if self.auc is not None and self.ap is not None:
            rows |= {
                "AUC": f"{100 * self.auc:.1f} % (95 %: {self.auc_interval})",
                "average precision": f"{100 * self.ap:.1f} % (95 %: {self.ap_interval})",
                "precision of the flags": f"{100 * now['precision']:.1f} %",
                "recall of the flags": f"{100 * now['recall']:.1f} %",
            }
        cells = "".join(f"<tr><td>{html.escape(k)}</td><td><b>{html.escape(v)}</b></td></tr>" for k, v in rows.items())
        return f"<p>{html.escape(self.scores.name)}: mislabelled images</p><table>{cells}</table>"


def detect(study: Study, scores: Scores | EstimatorLike, threshold: float | None = None, seed: int = 0) -> Detection:
    """Judge mislabel scores: where to cut, and how good they are where the truth is known.

    Args:
        study: whose training images the scores belong to.
        scores: "mislabel" or "self_influence" scores of all training images; or an estimator, which is asked for them.
        threshold: flag scores above it; Otsu's by default, and one half for probabilities.
        seed: of the bootstrap.

    Returns:
        Threshold, flagged images, curves, areas, and the 95 % bootstrap intervals and bands (1000 resamples).

    Raises:
        NotSupported: if the scores are of another kind.
        InvalidInput: if they do not cover the training set, or the threshold is not finite.
        StaleResult: if they were computed on another study.
    """
    scores = scores if isinstance(scores, Scores) else fitted_on(study, scores).mislabel_scores()
    if scores.kind not in ("mislabel", "self_influence"):
        raise NotSupported(f"detection needs mislabel or self-influence scores; these are {scores.kind} scores")
    if not torch.equal(scores.train_ids, torch.arange(len(study.train))):
        raise InvalidInput(f"there are scores for {len(scores.train_ids)} of {len(study.train)} training images")
    if scores.meta.get("study", study.fingerprint) != study.fingerprint:
        raise StaleResult(f"these {scores.name} scores belong to another study: call .fit(study) again")
    if threshold is not None:
        cut = _number(threshold, "threshold")
    else:
        cut = EVEN if scores.scale == "probability" else otsu(scores.values)
    return _judged(scores, study.train.corrupted, cut, seed, LabelProbabilities(scores))


def _judged(
    scores: Scores, wrong: Tensor | None, threshold: float, seed: int, quality: LabelProbabilities
) -> Detection:
    """The detection of scores whose labels are wrong where ``wrong`` says so, bool [N]."""
    ranking = Ranking.of(scores, wrong)
    flagged = ranking.ids[: ranking.above(threshold)]
    if wrong is None or not bool(wrong.any()) or bool(wrong.all()):
        return Detection(scores, threshold, flagged, ranking, quality, seed, corrupted=wrong)
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    truth, values = wrong.numpy(), scores.values.double().numpy()
    false_positive, true_positive, at_roc = roc_curve(truth, values)
    precision, recall, at_pr = precision_recall_curve(truth, values)
    roc = {"false_positive_rate": false_positive, "true_positive_rate": true_positive, "threshold": at_roc}
    pr = {"recall": recall[:-1], "precision": precision[:-1], "threshold": at_pr}
    checked = {"checked": ranking.sizes, "found": ranking.found, "threshold": ranking.thresholds}
    auc_interval, ap_interval, bands = bootstrap(truth, values, seed)
    return Detection(
        scores,
        threshold,
        flagged,
        ranking,
        quality,
        seed,
        corrupted=wrong,
        roc=pd.DataFrame(roc),
        pr=pd.DataFrame(pr),
        checked=pd.DataFrame(checked),
        auc=float(roc_auc_score(truth, values)),
        ap=float(average_precision_score(truth, values)),
        auc_interval=auc_interval,
        ap_interval=ap_interval,
        bands=bands,
    )


def _number(value: float, what: str, low: float = -np.inf, high: float = np.inf) -> float:
    """A finite number within bounds."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number) or not low <= number <= high:
        bounds = "a finite number" if low == -np.inf else f"a number from {low:g} to {high:g}"
        raise InvalidInput(f"the {what} is {value!r}; give {bounds}")
    return number


def _ids(ids: Iterable[int] | Tensor) -> Integers:
    """Whole numbers from a list, a set, an array, a column or a tensor."""
    array = np.asarray(ids if hasattr(ids, "__array__") else list(ids))
    if array.size and array.dtype.kind not in "iu":
        raise InvalidInput(f"training ids are whole numbers such as [3, 17]; these are of type {array.dtype}")
    return array.astype(np.int64).ravel()
