"""Do probabilities hold? Said against happened, in bins."""

from __future__ import annotations

import html
import importlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from influence_core.errors import InvalidInput
from influence_core.threads import uninterrupted

NORMAL = 1.959963984540054
"""Quantile of a 95 % interval."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """Probabilities against what happened.

    Attributes:
        table: one row for each bin that has images: low, high (its limits), count, said (mean probability), happened
            (share), happened_low and happened_high (95 % of it, Wilson 1927).
        error: expected calibration error, 0 to 1: the mean distance of said and happened, bins weighted by their
            images (Naeini et al. 2015). Small errors are no proof: a bin of few images is near by chance.
        brier: mean squared distance of the probability from 0 or 1.
        images: how many there are.
        source: how the probabilities are known, in words.
    """

    table: pd.DataFrame = field(repr=False)
    error: float
    brier: float
    images: int
    source: str = ""

    def figure(self, precision: tuple[float, float] | None = None) -> Any:
        """Said against happened, with the diagonal on which probabilities hold; see ``ic.figures.reliability``.

        Args:
            precision: expected and true precision of the flagged images, to be marked; none by default.

        Returns:
            The figure.
        """
        with uninterrupted():
            figures: Any = importlib.import_module("influence_core.figures")  # it takes these: once somebody looks
        return figures.reliability(self, precision)

    def __str__(self) -> str:
        """The error in a sentence."""
        return (
            f"expected calibration error {100 * self.error:.1f} points, Brier score {self.brier:.3f}, "
            f"{self.images:,} images"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return f"<p>{html.escape(str(self))}; {html.escape(self.source)}</p>{self.table.to_html(index=False)}"


def reliability(probabilities: Tensor, happened: Tensor, bins: int = 10, source: str = "") -> Reliability:
    """Compare probabilities with what happened.

    Args:
        probabilities: [N], 0 to 1.
        happened: bool [N].
        bins: of one width.
        source: how the probabilities are known, in words.

    Returns:
        The comparison.

    Raises:
        InvalidInput: if there is nothing to compare, a number is no probability, or there is no bin.

    Example:
        >>> import influence_core as ic
        >>> import torch
        >>> found = ic.applications.reliability(torch.tensor([0.1, 0.3, 0.9]), torch.tensor([False, True, True]))
        >>> round(found.error, 6)
        0.3
    """
    p, truth = probabilities.double().numpy(), happened.numpy().astype(float)
    if not len(p) or len(p) != len(truth) or not bool(((p >= 0) & (p <= 1)).all()):
        raise InvalidInput(
            f"{len(p)} probabilities and {len(truth)} outcomes; give as many of both, and numbers from 0 to 1"
        )
    if bins < 1:
        raise InvalidInput(f"bins is {bins}; at least one is needed")
    place = np.minimum((p * bins).astype(int), bins - 1)
    rows = []
    for which in np.unique(place):
        inside = place == which
        count, share = int(inside.sum()), float(truth[inside].mean())
        low, high = _wilson(share, count)
        rows.append([which / bins, (which + 1) / bins, count, float(p[inside].mean()), share, low, high])
    columns = ["low", "high", "count", "said", "happened", "happened_low", "happened_high"]
    table = pd.DataFrame(rows, columns=columns)
    error = float((table["count"] * (table["said"] - table["happened"]).abs()).sum() / len(p))
    return Reliability(table, error, float(((p - truth) ** 2).mean()), len(p), source)


def _wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share that was seen."""
    z2 = NORMAL**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = NORMAL / (1 + z2 / count) * float(np.sqrt(share * (1 - share) / count + z2 / (4 * count**2)))
    return max(0.0, middle - half), min(1.0, middle + half)
