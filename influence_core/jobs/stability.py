"""How long the ends of a ranking have been as they are now, while its rows are still coming in."""

from __future__ import annotations

from dataclasses import dataclass

from influence_core.errors import InvalidInput
from influence_core.scores import Scores


@dataclass(frozen=True)
class Stability:
    """Since when the extreme images are the same; it says nothing of the rows that are still to come.

    Attributes:
        k: images on each side.
        since: share of the training images, 0 to 1, from which on they are; over all columns.
        there: share of the training images that have a score.
    """

    k: int
    since: float
    there: float

    def __str__(self) -> str:
        """Such as "top 10 unchanged since 22 %"."""
        return f"top {self.k} unchanged since {self.since:.0%}".replace("%", " %")


def stability(scores: Scores, k: int = 10, total: int | None = None) -> Stability:
    """Since which share of the rows the k largest and the k smallest scores belong to the images they belong to now.

    Rows are taken to come in the order of their ids, as shards are claimed. The k largest of all are also the k largest
    of any part that holds them, so that it is since the last of them came; and likewise the smallest.

    Args:
        scores: the rows that are there.
        k: images on each side.
        total: rows in the end; by default the size of the training set.

    Returns:
        The share, the latest over all columns.

    Raises:
        InvalidInput: if ``k`` is below 1, or there are fewer rows.

    Example:
        >>> import torch
        >>> some = Scores(torch.tensor([5.0, 1.0, 2.0, 3.0]), torch.arange(4), "mislabel")
        >>> str(stability(some, k=1, total=8))
        'top 1 unchanged since 25 %'
    """
    rows = len(scores.values)
    if not 1 <= k <= rows:
        raise InvalidInput(f"k is {k}: choose 1 to {rows}, the number of training images that have a score so far")
    whole = total if total is not None else rows if scores.train is None else len(scores.train)
    columns = scores.values if scores.values.ndim > 1 else scores.values[:, None]
    columns = columns[scores.train_ids.argsort()]
    last = max(int(columns.topk(k, dim=0, largest=largest).indices.max()) for largest in (True, False))
    return Stability(k, (last + 1) / whole, rows / whole)
