"""Where to cut scores when nothing is known but the scores."""

from __future__ import annotations

import numpy as np
from torch import Tensor


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
