"""Rank correlation column by column, how far its mean can be trusted, and how many of the first k two orders share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from influence_core.applications.bootstrap import Interval

Floats = NDArray[np.float64]

_RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class RankCorrelation:
    """Spearman's rank correlation, mean over columns.

    Attributes:
        value: the mean, -1 to 1.
        interval: bootstrap over rows and columns together, 95 %.
        per_column: float64 [M].
        resampled: the means of the bootstrap, float64; those of one seed and shape come from the same draws.
    """

    value: float
    interval: Interval
    per_column: Tensor
    resampled: Floats = field(repr=False)


def rank_correlation(predicted: Tensor, observed: Tensor, seed: int = 0) -> RankCorrelation:
    """Spearman's rank correlation of each column of two tables, and the interval of their mean.

    Args:
        predicted: [R, M].
        observed: [R, M], row by row and column by column about the same.
        seed: of the bootstrap of 2000 resamples; ranks are those among all rows.

    Returns:
        Mean and interval. A column that is constant on either side counts as 0.
    """
    one, two = _ranks(predicted), _ranks(observed)
    rows, columns = one.shape
    every = np.full((1, rows), 1 / rows)
    per_column = _correlations(every, one, two)[0]
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(rows, every[0], size=_RESAMPLES) / rows
    weights = generator.multinomial(columns, np.full(columns, 1 / columns), size=_RESAMPLES) / columns
    resampled = (_correlations(drawn, one, two) * weights).sum(1)
    return RankCorrelation(
        float(per_column.mean()), interval_of(resampled), torch.from_numpy(per_column), np.asarray(resampled)
    )


def interval_of(resampled: Floats) -> Interval:
    """The 95 % percentile interval of a bootstrap."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(float(low), float(high))


def spearman(one: Tensor, two: Tensor) -> Tensor:
    """Spearman's rank correlation of each column; equal values share their mean rank.

    Args:
        one: [R, M].
        two: [R, M].

    Returns:
        float64 [M]; exactly 1 where the orders are the same, 0 where a column is constant on either side.
    """
    every = np.full((1, len(one)), 1 / len(one))
    return torch.from_numpy(_correlations(every, _ranks(one), _ranks(two))[0])


def shared_top(one: Tensor, two: Tensor, k: int, lowest: bool = False) -> Tensor:
    """Which share of the k largest (or lowest) of each column two tables have in common.

    Args:
        one: [R, M].
        two: [R, M].
        k: how many of each; equal values in the order of their rows, as ``Scores.top`` has them.
        lowest: the lowest instead.

    Returns:
        float64 [M], 0 to 1.
    """
    first = [torch.sort(t, dim=0, descending=not lowest, stable=True).indices[:k] for t in (one, two)]
    return (first[0][:, None] == first[1][None]).any(0).double().mean(0)


def _ranks(columns: Tensor) -> Floats:
    """Ranks within each column, equal values share the mean of theirs, centred."""
    ranks = pd.DataFrame(columns.double().numpy()).rank().to_numpy(dtype=np.float64)
    centred: Floats = ranks - ranks.mean(0)
    return centred


def _correlations(weights: Floats, one: Floats, two: Floats) -> Floats:
    """Pearson's correlation of each column under each row of weights (which add up to 1); [rows, columns]."""
    mean_one, mean_two = weights @ one, weights @ two
    covariance = weights @ (one * two) - mean_one * mean_two
    variance = (weights @ one**2 - mean_one**2) * (weights @ two**2 - mean_two**2)
    scale = np.sqrt(np.maximum(variance, 0.0))
    constant = scale < 1e-9 * max(1.0, float(scale.max()))
    correlation: Floats = np.where(constant, 0.0, covariance / np.where(constant, 1.0, scale))
    return correlation
