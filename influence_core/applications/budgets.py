"""What checking the most suspicious images will find, for budgets of several sizes."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from influence_core.applications.detection import Detection

_BUDGETS = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
_ROWS = 6
_MOST = 0.5
"""Of the training images: nobody checks more."""


def budgets(detection: Detection, counts: Iterable[int] | None = None) -> pd.DataFrame:
    """What each budget of images to check is expected to find and, where the truth is known, what it finds.

    Args:
        detection: of all images, or of some.
        counts: images to check. Otherwise the six largest round numbers of at most half the images; the number that
            is flagged now is always among them.

    Returns:
        A row for each set that a threshold can make, the smallest first: images (a count), expected (mean probability
        that a label is wrong, 0 to 1) and, where the truth is known, true (share of wrong labels).

    Raises:
        InvalidInput: if a count is not a whole number from 0 to N.
    """
    if counts is None:
        counts = [count for count in _BUDGETS if count <= _MOST * len(detection.scores.values)][-_ROWS:]
    rows: dict[int, dict[str, float]] = {}
    for count in (*counts, len(detection.flagged)):
        part = detection.budget(count)
        if part.expected_precision is None:
            continue
        rows[len(part.flagged)] = {"images": len(part.flagged), "expected": part.expected_precision}
        if part.corrupted is not None:
            rows[len(part.flagged)]["true"] = part.at(part.threshold)["precision"]
    columns = ["images", "expected", *(["true"] if detection.corrupted is not None else [])]
    return pd.DataFrame([rows[size] for size in sorted(rows)], columns=columns)
