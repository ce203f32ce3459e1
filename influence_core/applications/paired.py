r"""What a change of the training set gains on the test set, with intervals that pair what belongs together.

Two models that are trained from the same seed are judged on the same test images, so that what is looked at is the
difference of each pair, and the luck of a seed and the difficulty of an image cancel. Differences [S, M] are resampled
by rows and by columns at once, images and seeds with replacement (Owen 2007, *The pigeonhole bootstrap*, Annals of
Applied Statistics 1): the interval then counts both, the choice of the test images and that of the seeds. Of a single
seed it counts the images alone, and of two or three it is somewhat too narrow where seeds matter more than images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from influence_core.applications.bootstrap import RESAMPLES, Interval
from influence_core.errors import InvalidInput

_CELLS = 2**23
"""Counts of drawn test images in memory at a time."""


class Gain(NamedTuple):
    """A mean difference, with its interval.

    Attributes:
        value: over seeds and test images.
        interval: 95 %, of the pigeonhole bootstrap.
    """

    value: float
    interval: Interval

    def __str__(self) -> str:
        """Points of a share in per cent."""
        low, high = self.interval
        return f"{100 * self.value:+.1f} points (95 %: {100 * low:+.1f} to {100 * high:+.1f})"

    @property
    def sure(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.interval.low > 0 or self.interval.high < 0


def paired(differences: Tensor, seed: int = 0) -> Gain:
    r"""Mean of paired differences with its 95 % interval.

    Args:
        differences: of one model less another, [S, M]: a row a seed, a column a test image.
        seed: of the resamples, of which there are 1000.

    Returns:
        The mean and its percentile interval.

    Raises:
        InvalidInput: if there is no difference, or one is no finite number.

    Example:
        >>> import torch
        >>> paired(torch.ones(2, 5))
        Gain(value=1.0, interval=Interval(low=1.0, high=1.0))
    """
    values = differences.detach().double().cpu().numpy()
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise InvalidInput(f"differences are {tuple(differences.shape)}; expected finite numbers [seeds, test images]")
    seeds, images = values.shape
    generator = np.random.default_rng(seed)
    means = []
    at_once = max(1, _CELLS // images)
    for begin in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - begin)
        rows = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=count)
        columns = generator.multinomial(images, np.full(images, 1 / images), size=count)
        means.append(((rows @ values) * columns).sum(1) / (seeds * images))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Gain(float(values.mean()), Interval(float(low), float(high)))
