"""Detecting mislabelled images: a threshold, and curves with confidence intervals where the truth is known."""

from __future__ import annotations

import html
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from influence_core.errors import InvalidInput, NotSupported, StaleResult
from influence_core.scores import Scores
from influence_core.study import Study

Floats = NDArray[np.float64]

_RESAMPLES = 1000
_CHUNK = 2**22  # resampled counts held at once


class Interval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float

    def __str__(self) -> str:
        """Both ends in per cent."""
        return f"{100 * self.low:.1f} to {100 * self.high:.1f}"


@dataclass(frozen=True, eq=False)
class Detection:
    """How well scores separate wrong labels from right ones.

    Attributes:
        scores: mislabel or self-influence scores of all training images.
        threshold: images with a larger score are flagged.
        flagged: ids of the flagged training images, most suspicious first, int64.
        corrupted: which labels are known to be wrong, bool [N]; ``None`` if the truth is unknown, and then so is
            everything below.
        roc: false_positive_rate, true_positive_rate, threshold.
        pr: recall, precision, threshold.
        auc: area under the ROC curve, 0 to 1.
        ap: average precision, 0 to 1; a random order has the share of wrong labels.
        auc_interval: bootstrap over training images, 95 %.
        ap_interval: likewise.
    """

    scores: Scores
    threshold: float
    flagged: Tensor
    corrupted: Tensor | None = None
    roc: pd.DataFrame | None = None
    pr: pd.DataFrame | None = None
    auc: float | None = None
    ap: float | None = None
    auc_interval: Interval | None = None
    ap_interval: Interval | None = None

    def at(self, threshold: float) -> dict[str, float]:
        """What flagging every score above ``threshold`` means.

        Args:
            threshold: to try.

        Returns:
            flagged (a count) and, where the truth is known, precision and recall.
        """
        above = self.scores.values > threshold
        result = {"flagged": float(above.sum())}
        if self.corrupted is not None:
            found = float((above & self.corrupted).sum())
            result["precision"] = found / max(1.0, float(above.sum()))
            result["recall"] = found / max(1.0, float(self.corrupted.sum()))
        return result

    def cut(self, threshold: float) -> Detection:
        """The same scores with another threshold; curves, areas and intervals do not depend on it.

        Args:
            threshold: flag the images with a larger score.

        Returns:
            A detection that shares all but the threshold and the flags.
        """
        threshold = float(threshold)
        return replace(self, threshold=threshold, flagged=_flagged(self.scores, threshold))

    def __repr__(self) -> str:
        """Areas with intervals and the number of flagged images."""
        curves = f"AUC {self.auc:.3f}, AP {self.ap:.3f}, " if self.auc is not None else "truth unknown, "
        return f"Detection({self.scores.name}: {curves}{len(self.flagged)} of {len(self.scores.values)} flagged)"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        now = self.at(self.threshold)
        rows = {"flagged": f"{len(self.flagged)} of {len(self.scores.values)}", "threshold": f"{self.threshold:.4g}"}
        if self.auc is not None and self.ap is not None:
            rows |= {
                "AUC": f"{100 * self.auc:.1f} % (95 %: {self.auc_interval})",
                "average precision": f"{100 * self.ap:.1f} % (95 %: {self.ap_interval})",
                "precision of the flags": f"{100 * now['precision']:.1f} %",
                "recall of the flags": f"{100 * now['recall']:.1f} %",
            }
        cells = "".join(f"<tr><td>{html.escape(k)}</td><td><b>{html.escape(v)}</b></td></tr>" for k, v in rows.items())
        return f"<p>{html.escape(self.scores.name)}: mislabelled images</p><table>{cells}</table>"


def detect(study: Study, scores: Scores, threshold: float | None = None, seed: int = 0) -> Detection:
    """Judge mislabel scores: where to cut, and how good they are where the truth is known.

    Args:
        study: whose training images the scores belong to.
        scores: "mislabel" or "self_influence" scores of all training images.
        threshold: flag scores above it; Otsu's by default.
        seed: of the bootstrap.

    Returns:
        Threshold, flagged images, curves, areas and their 95 % bootstrap confidence intervals (1000 resamples).

    Raises:
        NotSupported: if the scores are of another kind.
        InvalidInput: if they do not cover the training set.
        StaleResult: if they were computed on another study.
    """
    if scores.kind not in ("mislabel", "self_influence"):
        raise NotSupported(f"detection needs mislabel or self-influence scores; these are {scores.kind} scores")
    if not torch.equal(scores.train_ids, torch.arange(len(study.train))):
        raise InvalidInput(f"there are scores for {len(scores.train_ids)} of {len(study.train)} training images")
    if scores.meta.get("study", study.fingerprint) != study.fingerprint:
        raise StaleResult(f"these {scores.name} scores belong to another study: call .fit(study) again")
    cut = otsu(scores.values) if threshold is None else float(threshold)
    flagged = _flagged(scores, cut)
    wrong = study.train.corrupted
    if wrong is None or not bool(wrong.any()) or bool(wrong.all()):
        return Detection(scores, cut, flagged)
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    truth, values = wrong.numpy(), scores.values.double().numpy()
    false_positive, true_positive, at_roc = roc_curve(truth, values)
    precision, recall, at_pr = precision_recall_curve(truth, values)
    roc = {"false_positive_rate": false_positive, "true_positive_rate": true_positive, "threshold": at_roc}
    pr = {"recall": recall[:-1], "precision": precision[:-1], "threshold": at_pr}
    auc_interval, ap_interval = bootstrap(truth, values, seed)
    return Detection(
        scores,
        cut,
        flagged,
        corrupted=wrong,
        roc=pd.DataFrame(roc),
        pr=pd.DataFrame(pr),
        auc=float(roc_auc_score(truth, values)),
        ap=float(average_precision_score(truth, values)),
        auc_interval=auc_interval,
        ap_interval=ap_interval,
    )


def _flagged(scores: Scores, threshold: float) -> Tensor:
    """Ids of the images above the threshold, most suspicious first, equal ones in the order of their ids."""
    order = torch.sort(scores.values, descending=True, stable=True)
    return scores.train_ids[order.indices[order.values > threshold]]


def otsu(values: Tensor) -> float:
    """Otsu's threshold between the two groups of a histogram of 256 bins.

    Influence scores have heavy tails, on which the threshold of the raw values lands in the tail and flags a handful.
    The threshold of such scores (see ``heavy_tailed``) is found on log(1 + score / mean score), which bends the tail
    alone and does not depend on the unit.

    Args:
        values: [N].

    Returns:
        The threshold, on the scale of ``values``; the maximum if all values are equal.
    """
    from skimage.filters import threshold_otsu

    x = values.double().numpy()
    if x.min() == x.max():
        return float(x.max())
    if heavy_tailed(values):
        return float(np.expm1(threshold_otsu(np.log1p(x / x.mean()), nbins=256)) * x.mean())
    return float(threshold_otsu(x, nbins=256))


def heavy_tailed(values: Tensor) -> bool:
    """Whether scores are better looked at on a logarithmic scale.

    Args:
        values: [N].

    Returns:
        True if no value is negative and the largest is more than ten times the upper quartile.
    """
    return bool(values.min() >= 0) and float(values.max()) > 10 * float(values.double().quantile(0.75))


def bootstrap(truth: NDArray[np.bool_], values: Floats, seed: int = 0) -> tuple[Interval, Interval]:
    """Percentile intervals of AUC and average precision over resampled images.

    Resamples are counts per image, so one sort serves them all and ties are kept together.

    Args:
        truth: which labels are wrong, bool [N].
        values: scores [N].
        seed: of the resamples.

    Returns:
        The 95 % intervals of AUC and of average precision, each from 1000 resamples.
    """
    order = np.argsort(-values, kind="stable")
    last_of_tie = np.append(np.diff(values[order]) != 0, True)
    positive = truth[order]
    generator = np.random.default_rng(seed)
    areas: list[Floats] = []
    left = _RESAMPLES
    while left:
        rows = min(left, max(1, _CHUNK // values.size))
        counts = generator.multinomial(values.size, np.full(values.size, 1 / values.size), size=rows)
        areas.append(_areas(counts, positive, last_of_tie))
        left -= rows
    auc, ap = np.nanpercentile(np.concatenate(areas), [2.5, 97.5], axis=0).T
    return Interval(*map(float, auc)), Interval(*map(float, ap))


def _areas(counts: NDArray[np.int64], positive: NDArray[np.bool_], last_of_tie: NDArray[np.bool_]) -> Floats:
    """AUC and average precision of each row of counts, images in descending order of score; [rows, 2]."""
    hits = np.cumsum(counts * positive, axis=1)[:, last_of_tie].astype(np.float64)
    misses = np.cumsum(counts * ~positive, axis=1)[:, last_of_tie].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample without positives has no areas: NaN, skipped
        new_hits = np.diff(hits, axis=1, prepend=0.0)
        new_misses = np.diff(misses, axis=1, prepend=0.0)
        auc = (new_misses * (hits - new_hits / 2)).sum(1) / (hits[:, -1] * misses[:, -1])
        precision = np.where(hits + misses > 0, hits / np.maximum(hits + misses, 1.0), 0.0)
        ap = (new_hits * precision).sum(1) / hits[:, -1]
    return np.stack([auc, ap], axis=1)
