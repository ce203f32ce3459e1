"""Predicted against actual: what receipts say about an estimator, and whether a new prediction is like those."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence_core.applications.receipt import Receipt
from influence_core.errors import InvalidInput
from influence_core.estimators.registry import title_of
from influence_core.progress import counted
from influence_core.threads import uninterrupted

Floats = NDArray[np.float64]

CORRELATED = 0.5
"""A receipt was right if prediction and outcome correlate at least so, over test images, the noise of the outcome taken
off where several seeds show it ..."""
ALIKE = 3.0
"""Factor within which predictions are alike."""
TELLS = 0.1
"""Reliability of the outcome below which a receipt tells nothing of its prediction: the seeds differ nearly as much."""
SLOPES = (0.5, 2.0)
"""... and, where the prediction was in nats, the slope lies between these."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """How predictions compare with what training again showed.

    Attributes:
        points: receipt (its place), test_id, predicted, actual: a row for each test image of each receipt.
        table: a row a receipt: estimator, action, how, images, size (root mean square of the prediction), actual_size,
            correlation, rank_correlation, slope, same_sign, reliability, corrected and right. Reliability is the share
            of the outcome's variance over test images that is not noise of the seeds, corrected the correlation with
            an outcome without that noise (Spearman 1904, at most 1); both NaN with one seed. Right as ``CORRELATED``
            and ``SLOPES`` say; where the reliability is below ``TELLS`` nobody knows, and it is ``None``.
        correlation: of all points, -1 to 1; NaN where one side does not vary.
        rank_correlation: likewise, of ranks.
        slope: of the least squares line of the actual changes on the predicted ones; 1 where the sizes are right.
        intercept: likewise.
    """

    points: pd.DataFrame = field(repr=False)
    table: pd.DataFrame = field(repr=False)
    correlation: float
    rank_correlation: float
    slope: float
    intercept: float

    def figure(self) -> Any:
        """Actual against predicted changes; see ``ic.figures.predicted_and_actual``."""
        with uninterrupted():
            from influence_core.figures.predicted import predicted_and_actual
        return predicted_and_actual(self.points, self.slope, self.intercept)

    def sentences(self) -> list[str]:
        """What it shows, in plain sentences."""
        told = self.table["right"].dropna()
        count, right = len(told), int(told.astype(bool).sum())
        untold = len(self.table) - count
        said = "" if not untold else f" ({untold} more tell nothing: their trainings differ as much among themselves)"
        return [
            f"{right} of {count} checked predictions were right{said}; over all {len(self.points):,} changes of a test "
            f"loss prediction and outcome correlate by {self.correlation:.2f} (ranks {self.rank_correlation:.2f}), and "
            f"the outcome is {self.slope:.2g} times the prediction."
        ]

    def __repr__(self) -> str:
        """Correlation and slope."""
        return f"Calibration({len(self.table)} receipts, correlation {self.correlation:.2f}, slope {self.slope:.2g})"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        said = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences())
        return said + self.table.to_html(index=False, float_format="{:.3g}".format)


def calibration(receipts: Sequence[Receipt]) -> Calibration:
    """Compare predictions with what training again showed; those that nobody has verified are passed over.

    Args:
        receipts: of one estimator, or of several to see them together.

    Returns:
        Correlation, slope, a row for each receipt, and a figure.

    Raises:
        InvalidInput: if none is verified.
    """
    verified = [receipt for receipt in receipts if receipt.actual is not None]
    if not verified:
        raise InvalidInput(
            f"none of the {len(receipts)} receipts is verified: call .verify(seeds, store) on what ic.applications."
            "what_if gives"
        )
    points = pd.concat(
        [
            pd.DataFrame({"receipt": n, "test_id": r.test_ids, "predicted": r.predicted, "actual": r.actual})
            for n, r in enumerate(verified)
        ],
        ignore_index=True,
    )
    found = _compared(points["predicted"].to_numpy(float), points["actual"].to_numpy(float))
    return Calibration(points, pd.DataFrame([_row(receipt) for receipt in verified]), *found)


def in_range(prediction: Any, receipts: Sequence[Receipt]) -> str | None:
    """Warn of a prediction that is unlike those that training has shown to be right.

    Those of the same estimator with the same parameters count, of removals, labels and weights together, and about any
    study. One is like this prediction if the number of images that change, and the size of the predicted change (root
    mean square over test images), are the same within a factor of three; half of these must have been right.

    Args:
        prediction: a ``Receipt``, or what ``what_if`` gives.
        receipts: that are there so far.

    Returns:
        A sentence; ``None`` where the prediction is in the range. ``WhatIf.verify`` trains with and without it.
    """
    mine: Receipt = prediction if isinstance(prediction, Receipt) else prediction.receipt
    title, check = title_of(mine.estimator), "train with and without the change before you rely on it"
    checked = [r for r in receipts if r.verified and r.key != mine.key]
    checked = [r for r in checked if (r.estimator, r.parameters) == (mine.estimator, mine.parameters)]
    checked = [r for r in checked if (r.step is None) == (mine.step is None)]
    if not checked:
        return f"No prediction of {title} has been checked by training so far: {check}."
    table = pd.DataFrame([_row(receipt) for receipt in checked])
    table = table[table["right"].notna()].astype({"right": bool})
    if not len(table):
        return (
            f"The trainings that checked {title} differ too much among themselves to tell whether it was right: {check}"
            ", with more seeds."
        )
    size = _size(mine.predicted)
    near = table[_near(table["images"], len(mine.ids)) & _near(table["size"], size)]
    if not len(near):
        return (
            f"No prediction of {title} like this one has been checked by training so far, with "
            f"{counted(len(mine.ids), 'training image')} and a predicted change of the size {size:.2g}: {check}."
        )
    if near["right"].mean() < 0.5:
        return (
            f"Of {counted(len(near), 'prediction')} of {title} like this one that were checked, "
            f"{int(near['right'].sum())} were right: {check}."
        )
    return None


def _near(values: pd.Series, mine: float) -> pd.Series:
    return values.between(mine / ALIKE, mine * ALIKE)


def _row(receipt: Receipt) -> dict[str, Any]:
    predicted, actual = np.array(receipt.predicted), np.array(receipt.actual)
    correlation, rank_correlation, slope, _ = _compared(predicted, actual)
    reliability = corrected = math.nan
    if receipt.noise is not None and np.ptp(actual) > 0:
        own = float(np.mean(np.square(receipt.noise))) - (receipt.shared or 0.0) ** 2  # what all share moves no order
        reliability = 1 - own / float(np.var(actual))
        if reliability >= TELLS:
            corrected = min(1.0, max(-1.0, correlation / math.sqrt(reliability)))
    right: bool | None = None
    if not reliability < TELLS:  # or there is one seed
        judged = correlation if math.isnan(corrected) else corrected
        if not math.isnan(judged):  # else one side does not vary
            right = judged >= CORRELATED and (receipt.scale != "nats" or SLOPES[0] <= slope <= SLOPES[1])
    return {
        "estimator": receipt.estimator,
        "action": receipt.action,
        "how": receipt.how,
        "images": len(receipt.ids),
        "size": _size(receipt.predicted),
        "actual_size": _size(actual),
        "correlation": correlation,
        "rank_correlation": rank_correlation,
        "slope": slope,
        "same_sign": float((np.sign(predicted) == np.sign(actual)).mean()),
        "reliability": reliability,
        "corrected": corrected,
        "right": right if right is None else bool(right),
    }


def _compared(predicted: Floats, actual: Floats) -> tuple[float, float, float, float]:
    """Correlation, rank correlation, slope and intercept; NaN where a side does not vary."""
    from scipy.stats import rankdata

    if len(predicted) < 2 or np.ptp(predicted) == 0:
        return math.nan, math.nan, math.nan, math.nan
    slope = float(np.cov(predicted, actual)[0, 1] / np.var(predicted, ddof=1))
    intercept = float(actual.mean() - slope * predicted.mean())
    if np.ptp(actual) == 0:
        return math.nan, math.nan, slope, intercept
    ranks = np.corrcoef(rankdata(predicted), rankdata(actual))[0, 1]
    return float(np.corrcoef(predicted, actual)[0, 1]), float(ranks), slope, intercept


def _size(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(values, dtype=float)))))
