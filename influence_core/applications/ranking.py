"""Images in the order of suspicion, and the sets of them that a threshold can make."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influence_core.scores import Scores

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ranking:
    """The order of suspicion. Images of one score are flagged together or not at all.

    Attributes:
        ids: training images, most suspicious first, those of one score in the order of their ids, int64 [N].
        values: their scores, float64 [N].
        sizes: number of images in each set that a threshold can make, from 0 to N, int64 [sets].
        thresholds: midway between the lowest score of each set and the next one, float64 [sets]; see ``between``.
        found: wrong labels in each set, int64 [sets]; ``None`` if the truth is unknown.
    """

    ids: Tensor
    values: Floats
    sizes: Integers
    thresholds: Floats
    found: Integers | None

    @classmethod
    def of(cls, scores: Scores, wrong: Tensor | None) -> Ranking:
        """Rank scores.

        Args:
            scores: one per training image, [N].
            wrong: which labels are wrong, bool [N], or ``None``.

        Returns:
            The ranking.
        """
        order = torch.sort(scores.values, descending=True, stable=True)
        last_of_tie = torch.ones(len(order.values), dtype=torch.bool)
        last_of_tie[:-1] = order.values[:-1] != order.values[1:]
        sizes = np.append(0, last_of_tie.nonzero().flatten().numpy() + 1)
        found = None
        if wrong is not None:
            found = np.append(0, wrong[order.indices].numpy().cumsum())[sizes]
        levels = order.values[last_of_tie]
        ends = np.array([float(levels[0])]), np.array([_below(levels)])
        thresholds = np.concatenate([ends[0], between(levels[1:], levels[:-1]), ends[1]])
        return cls(scores.train_ids[order.indices], order.values.double().numpy(), sizes, thresholds, found)

    def above(self, threshold: float) -> int:
        """How many images have a score above ``threshold``, compared in float64."""
        return len(self.values) - int(np.searchsorted(self.values[::-1], threshold, side="right"))

    def place(self, threshold: float) -> int:
        """The set of the images above ``threshold``: its place in ``sizes``."""
        return int(np.searchsorted(self.sizes, self.above(threshold)))


def between(low: Tensor, high: Tensor) -> Floats:
    """Thresholds that part two scores: ``high`` is above, ``low`` is not.

    Args:
        low: [n], of any dtype.
        high: [n], each above that of ``low``.

    Returns:
        The middle, float64 [n]; ``low`` itself where nothing lies between, in float64 or once rounded to the dtype of
        the scores, so that a comparison in either gives the same set.
    """
    a, b = low.double(), high.double()
    middle = (a + b) / 2
    middle = torch.where(torch.isfinite(middle), middle, a / 2 + b / 2)
    parts = (a <= middle) & (middle < b) & (middle.to(low.dtype) < high)
    return torch.where(parts, middle, a).numpy()


def _below(levels: Tensor) -> float:
    """A threshold that all scores are above: half a mean gap under the lowest, or what the dtype has next to it."""
    lowest, highest = float(levels[-1]), float(levels[0])
    gap = (highest - lowest) / (2 * max(1, len(levels) - 1))
    down = torch.tensor(lowest - (gap or max(abs(lowest), 1.0) / 2), dtype=torch.float64)
    if bool(torch.isfinite(down)) and bool(down < lowest) and bool(down.to(levels.dtype) < levels[-1]):
        return float(down)
    dtype = levels.dtype if levels.is_floating_point() else torch.float64
    return float(torch.nextafter(levels[-1].to(dtype), torch.tensor(-torch.inf, dtype=dtype)))
