"""How far the curves of a detector can be trusted: resampled images, intervals of the areas and bands of the curves.

Every resample draws as many images as there are, with replacement, and every area and curve comes from the same 1000
(Efron & Tibshirani 1993, *An Introduction to the Bootstrap*, percentile intervals). Nothing is binned: images of one
score stay together as a threshold keeps them, and right labels between two wrong ones are counted together, which
changes no curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Truth = NDArray[np.bool_]

RESAMPLES = 1000
GRID: Floats = np.linspace(0.0, 1.0, 101)
"""Where the bands of the curves are given."""


class Interval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float

    def __str__(self) -> str:
        """Both ends in per cent."""
        return f"{100 * self.low:.1f} to {100 * self.high:.1f}"


@dataclass(frozen=True, eq=False)
class Bands:
    """Pointwise 95 % bands: each point of a curve lies inside with 95 %, the whole curve with less.

    Where a curve stands at 0 or 1 between its ends, the band reaches as far as Wilson's interval of that share: what
    is so of all images is so in every resample, and the bootstrap alone would be sure of what it cannot know.

    Attributes:
        roc: x false positive rate, low and high of the true positive rate; straight lines between thresholds.
        pr: x recall, low and high of the precision at the first threshold that reaches it; steps.
        checked: x share of the images checked, most suspicious first, low and high of the share of the wrong labels
            that are among them; straight lines between thresholds.
    """

    roc: pd.DataFrame
    pr: pd.DataFrame
    checked: pd.DataFrame


def bootstrap(truth: Truth, values: Floats, seed: int = 0) -> tuple[Interval, Interval, Bands]:
    """Percentile intervals of AUC, average precision and curves over resampled images.

    Args:
        truth: which labels are wrong, bool [N], of both kinds.
        values: scores [N], large: probably wrong.
        seed: of the resamples.

    Returns:
        The 95 % intervals of AUC and of average precision, and the bands, from the same 1000 resamples. A resample
        without wrong (or right) labels has no curve and is left out.
    """
    cells = cells_of(truth, values)
    generator = np.random.default_rng(seed)
    drawn = np.empty((RESAMPLES, 2 + 3 * len(GRID)))
    for row in drawn:
        counts = np.bincount(cells[generator.integers(0, len(cells), len(cells))], minlength=cells.max() + 1)
        hits, misses = cumulated(counts)
        row[:2] = areas(hits, misses)
        row[2:] = on_grid(hits, misses).ravel()
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    auc, ap = (Interval(float(a), float(b)) for a, b in zip(low[:2], high[:2], strict=True))
    hits, misses = cumulated(np.bincount(cells))
    least, most = _wilson(hits, misses)
    below = np.fmin(low[2:].reshape(3, -1), least)
    above = np.fmax(high[2:].reshape(3, -1), most)
    tables = [pd.DataFrame({"x": GRID, "low": a, "high": b}) for a, b in zip(below, above, strict=True)]
    return auc, ap, Bands(*tables)


def cells_of(truth: Truth, values: Floats) -> Integers:
    """What of each image matters to the curves.

    Args:
        truth: which labels are wrong, bool [N].
        values: scores [N].

    Returns:
        [N]: 2 x step + (1 if the label is wrong). A step, counted from 0 for the most suspicious, is the images of one
        score, or all images between two steps with wrong labels.
    """
    order = np.argsort(-values, kind="stable")
    truth = truth[order]
    first_of_tie = np.append(True, np.diff(values[order]) != 0)
    tie = np.cumsum(first_of_tie) - 1
    wrong_within = np.bincount(tie, weights=truth) > 0
    begins = wrong_within.copy()
    begins[1:] |= wrong_within[:-1]
    begins[0] = False  # the first step is step 0
    cells = np.empty(len(values), dtype=np.int64)
    cells[order] = 2 * np.cumsum(begins)[tie] + truth
    return cells


def cumulated(counts: Integers) -> tuple[Floats, Floats]:
    """Wrong and right labels down to the end of each step.

    Args:
        counts: images in each cell of ``cells_of``, [2 x steps]; the last may be missing.

    Returns:
        Hits and misses, [steps] each.
    """
    counts = np.append(counts, 0) if len(counts) % 2 else counts
    return counts[1::2].cumsum().astype(np.float64), counts[::2].cumsum().astype(np.float64)


def areas(hits: Floats, misses: Floats) -> tuple[float, float]:
    """AUC and average precision.

    Args:
        hits: wrong labels down to each step, [steps].
        misses: right labels, likewise.

    Returns:
        Both from 0 to 1; NaN where there is no label of a kind that it needs.
    """
    if not hits[-1]:
        return np.nan, np.nan
    new_hits, new_misses = np.diff(hits, prepend=0.0), np.diff(misses, prepend=0.0)
    auc = new_misses @ (hits - new_hits / 2) / (hits[-1] * misses[-1]) if misses[-1] else np.nan
    return float(auc), float(new_hits @ (hits / np.maximum(hits + misses, 1.0)) / hits[-1])


def on_grid(hits: Floats, misses: Floats) -> Floats:
    """The curves at ``GRID``.

    Args:
        hits: wrong labels down to each step, [steps].
        misses: right labels, likewise.

    Returns:
        True positive rate at a false positive rate, precision at a recall, share found at a share checked; [3, grid],
        NaN where there are no labels of a kind. Where a curve rises upright, its upper end.
    """
    if not hits[-1] or not misses[-1]:
        return np.full((3, len(GRID)), np.nan)
    checked, start = hits + misses, np.zeros(1)
    from_none = np.concatenate([start, hits])
    roc = np.interp(_shares(misses[-1]), np.concatenate([start, misses]), from_none) / hits[-1]
    at = np.searchsorted(hits, np.maximum(_shares(hits[-1]), 1.0))  # at a recall of 0 stands that of the first hit
    found = np.interp(_shares(checked[-1]), np.concatenate([start, checked]), from_none) / hits[-1]
    return np.stack([roc, hits[at] / checked[at], found])


def _wilson(hits: Floats, misses: Floats) -> tuple[Floats, Floats]:
    """Wilson's 95 % intervals (1927) where the curves stand at 0 or 1 and need not; [3, grid] each, NaN elsewhere."""
    share = on_grid(hits, misses)
    checked = hits + misses
    of = np.full_like(share, hits[-1])
    of[1] = checked[np.searchsorted(hits, np.maximum(_shares(hits[-1]), 1.0))]
    z = 1.959964
    middle = (share + z**2 / (2 * of)) / (1 + z**2 / of)
    half = z / (1 + z**2 / of) * np.sqrt(share * (1 - share) / of + z**2 / (4 * of**2))
    low, high = middle - half, middle + half
    for ends in (low, high):
        ends[(share > 0) & (share < 1)] = np.nan
        ends[np.ix_([0, 2], [0, -1])] = np.nan  # nothing checked finds nothing, everything checked finds all
    return low, high


def _shares(total: float) -> Floats:
    """``GRID`` of a whole number; exact where the share is a whole number, which decides at a jump."""
    return np.arange(len(GRID)) * total / (len(GRID) - 1)
