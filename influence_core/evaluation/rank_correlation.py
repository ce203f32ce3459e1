"""Rank correlation column by column, how far its mean can be trusted, and how many of the first k two orders share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from influence_core.applications.bootstrap import Interval
from influence_core.evaluation.correlation import Floats, correlations, ranks, resampled


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
    one, two = ranks(predicted.double().numpy()), ranks(observed.double().numpy())
    per_column, means = correlations(one, two)[0], resampled(one, two, seed)
    return RankCorrelation(float(per_column.mean()), interval_of(means), torch.from_numpy(per_column), means)


def interval_of(means: Floats) -> Interval:
    """The 95 % percentile interval of a bootstrap."""
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(low), float(high))


def spearman(one: Tensor, two: Tensor) -> Tensor:
    """Spearman's rank correlation of each column; equal values share their mean rank.

    Args:
        one: [R, M].
        two: [R, M].

    Returns:
        float64 [M]; exactly 1 where the orders are the same, 0 where a column is constant on either side.
    """
    return torch.from_numpy(correlations(ranks(one.double().numpy()), ranks(two.double().numpy()))[0])


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
