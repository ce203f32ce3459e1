"""How likely each label is wrong, and how that is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from influence_core.applications.mixture import mixture
from influence_core.scores import Scores

Source = Literal["planted flips", "mixture"]

SOURCES: dict[Source, str] = {
    "planted flips": "learnt from clean images with planted flips",
    "mixture": "a guess from the scores alone, by two normal distributions",
}
"""Where probabilities come from, in words."""


@dataclass(frozen=True, eq=False)
class LabelProbabilities:
    """How likely each label is wrong, made when it is first asked for.

    Attributes:
        scores: mislabel or self-influence scores of all training images; probabilities themselves, or to be made such.
    """

    scores: Scores = field(repr=False)

    @property
    def source(self) -> Source:
        """How they are known."""
        return "planted flips" if self.scores.scale == "probability" else "mixture"

    @cached_property
    def values(self) -> Tensor:
        """P(wrong) of each training image, float64 [N], in the order of the scores."""
        if self.scores.scale == "probability":
            return self.scores.values.double().clamp(0, 1)
        return mixture(self.scores.values)

    def of(self, ids: Tensor) -> Tensor:
        """P(wrong) of some training images.

        Args:
            ids: that have scores, int64 [n].

        Returns:
            float64 [n].
        """
        return self.values[torch.searchsorted(self.scores.train_ids, ids)]
