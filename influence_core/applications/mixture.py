"""How likely a label is wrong when nothing is known but the scores: a mixture of two normal distributions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from influence_core.applications.thresholds import heavy_tailed, otsu

LEAST = 4
"""Scores below which no two groups are looked for."""


def mixture(values: Tensor) -> Tensor:
    """Probability that a score is of the upper of two groups.

    Two normal distributions are fitted by expectation and maximisation, from the groups that Otsu's threshold makes; to
    log(1 + score / mean score) where scores have a heavy tail, as the threshold is. Wrong labels are taken for the
    upper group, which they need not be, so that this is a guess beside what is learnt from planted flips. A larger
    score never has a smaller probability: where the wider distribution would win at the other's far end again, the
    nearest value that is in order is taken.

    Args:
        values: [N], finite.

    Returns:
        [N], float64, 0 to 1; all 0 where there are no two groups.
    """
    x = values.double().numpy()
    if len(x) < LEAST or x.min() == x.max():
        return torch.zeros(len(x), dtype=torch.float64)
    upper = x > otsu(values)
    x = np.log1p(x / x.mean()) if heavy_tailed(values) else x
    x = (x - x.mean()) / x.std()
    groups = x[~upper], x[upper]
    if min(map(len, groups)) < 2:
        return torch.from_numpy(upper.astype(np.float64))
    from sklearn.mixture import GaussianMixture

    fitted = GaussianMixture(
        2,
        weights_init=[len(group) / len(x) for group in groups],
        means_init=[[group.mean()] for group in groups],
        precisions_init=[[[1 / max(group.var(), 1e-6)]] for group in groups],
        reg_covar=1e-6,
        tol=1e-6,
        max_iter=500,
        random_state=0,
    ).fit(x[:, None])
    high = int(fitted.means_[1, 0] > fitted.means_[0, 0])
    p = fitted.predict_proba(x[:, None])[:, high]
    order = np.argsort(x, kind="stable")
    low, top = np.sort(fitted.means_[:, 0])
    rising = p[order]
    rising[x[order] < low] = np.minimum(rising[x[order] < low], p[np.abs(x - low).argmin()])
    rising[x[order] > top] = np.maximum(rising[x[order] > top], p[np.abs(x - top).argmin()])
    found = np.empty_like(p)
    found[order] = np.maximum.accumulate(rising)
    return torch.from_numpy(found)
