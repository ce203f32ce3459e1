"""Correlations of many columns at once, and their intervals by resampling."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000


def centred(columns: Floats) -> Floats:
    """Columns less their means."""
    return columns - columns.mean(0)


def ranks(columns: Floats) -> Floats:
    """Ranks within each column, equal values share the mean of theirs, centred."""
    return centred(pd.DataFrame(columns).rank().to_numpy(dtype=np.float64))


def correlations(one: Floats, two: Floats, weights: Floats | None = None) -> Floats:
    """Pearson's correlation of each column of one with that of the other, both centred; of ranks it is Spearman's.

    Args:
        one: [n, M].
        two: [n, M].
        weights: of the rows, which add up to 1, [R, n]; by default one equal weighting.

    Returns:
        [R, M]; 0 where a column is constant.
    """
    if weights is None:
        weights = np.full((1, len(one)), 1 / len(one))
    mean_one, mean_two = weights @ one, weights @ two
    covariance = weights @ (one * two) - mean_one * mean_two
    variance = (weights @ one**2 - mean_one**2) * (weights @ two**2 - mean_two**2)
    scale = np.sqrt(np.maximum(variance, 0.0))
    constant = scale < 1e-9 * max(1.0, float(scale.max()))
    correlation: Floats = np.where(constant, 0.0, covariance / np.where(constant, 1.0, scale))
    return correlation


def resampled(one: Floats, two: Floats, seed: int) -> Floats:
    """The mean correlation over the columns, for resamples of rows and columns together.

    Args:
        one: [n, M], centred.
        two: likewise.
        seed: of the draw.

    Returns:
        [R].
    """
    rows, columns = one.shape
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES) / rows
    weights = generator.multinomial(columns, np.full(columns, 1 / columns), size=RESAMPLES) / columns
    means: Floats = (correlations(one, two, drawn) * weights).sum(1)
    return means
