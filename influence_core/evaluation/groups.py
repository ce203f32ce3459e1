"""Groups of training images to leave out together: at random, of one class, or those that scores put first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import pandas as pd
import torch
from torch import Tensor

from influence_core.errors import InvalidInput, NotSupported
from influence_core.scores import Scores
from influence_core.study import Study

GroupKind = Literal["single", "random", "class", "top"]
"""One image; images at random; of one class, at random; the most helpful, and in turn the most harmful, of a test
image."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Training images that are left out together.

    Attributes:
        removed: which images each group holds, bool [G, N].
        table: one row for each group: kind, share (that was asked for; missing for single images) and size.
    """

    removed: Tensor
    table: pd.DataFrame

    @property
    def kept(self) -> Tensor:
        """What ``retrain_subsets`` trains on: everything, then all but each group; bool [1 + G, N]."""
        return torch.cat([torch.ones(1, self.removed.shape[1], dtype=torch.bool), ~self.removed])

    def __repr__(self) -> str:
        """How many of each kind."""
        counts = self.table["kind"].value_counts(sort=False)
        return f"Groups({', '.join(f'{count} {kind}' for kind, count in counts.items())})"


def draw_groups(
    study: Study,
    shares: Sequence[float] = (0.01, 0.02, 0.05, 0.1),
    count: int = 20,
    kinds: Sequence[GroupKind] = ("single", "random", "class"),
    scores: Scores | None = None,
    seed: int = 0,
) -> Groups:
    """Draw groups of training images to leave out.

    Args:
        study: whose training images they are.
        shares: sizes, as shares of the training set.
        count: groups of each kind and share.
        kinds: "single" (one image, for comparison), "random", "class" (images of one class, the classes in turn; a
            smaller class goes as a whole) and "top" (of one test image of ``scores`` the most helpful images, of the
            next the most harmful).
        scores: influence of all training images, for "top".
        seed: of the draws.

    Returns:
        The groups, for ``retrain_subsets`` and ``group_effects``.

    Raises:
        InvalidInput: if a kind, a share or a count makes no sense.
        NotSupported: if "top" is asked for without influence scores, or "class" without classes.

    Example:
        >>> import influence_core as ic
        >>> ic.evaluation.draw_groups(ic.demo.digits(), shares=(0.05,), count=3)
        Groups(3 single, 3 random, 3 class)
    """
    n = len(study.train)
    _check(n, shares, count, kinds)
    generator = torch.Generator().manual_seed(seed)
    masks, rows = [], []
    for kind in kinds:
        for share in (None,) if kind == "single" else tuple(shares):
            size = 1 if share is None else round(share * n)
            for ids in _drawn(study, kind, size, count, scores, generator):
                mask = torch.zeros(n, dtype=torch.bool)
                mask[ids] = True
                masks.append(mask)
                rows.append((kind, share, len(ids)))
    return Groups(torch.stack(masks), pd.DataFrame(rows, columns=["kind", "share", "size"]))


def _drawn(
    study: Study, kind: GroupKind, size: int, count: int, scores: Scores | None, generator: torch.Generator
) -> Iterator[Tensor]:
    """The ids of each group."""
    n = len(study.train)
    if kind == "class":
        study.need_classes("groups of one class")
        present = study.train.labels.unique()
        for number in range(count):
            own = (study.train.labels == present[number % len(present)]).nonzero().flatten()
            yield own[torch.randperm(len(own), generator=generator)[:size]]
    elif kind == "top":
        if scores is None or scores.kind != "influence":
            raise NotSupported("groups of the top need influence scores: draw_groups(study, ..., scores=scores)")
        for number in range(count):
            column = scores.values[:, number % scores.values.shape[1]]
            order = torch.sort(column, descending=number % 2 == 0, stable=True).indices
            yield scores.train_ids[order[:size]]
    elif kind == "single":  # no image twice while there are others
        yield from torch.randperm(n, generator=generator)[:count].split(1)
    else:
        for _ in range(count):
            yield torch.randperm(n, generator=generator)[:size]


def _check(size: int, shares: Sequence[float], count: int, kinds: Sequence[str]) -> None:
    unknown = [kind for kind in kinds if kind not in get_args(GroupKind)]
    if unknown or not kinds:
        raise InvalidInput(f"kinds are {tuple(kinds)!r}; choose of {', '.join(get_args(GroupKind))}")
    bad = [share for share in shares if not 0 < round(share * size) < size]
    if bad:
        raise InvalidInput(f"a share of {bad[0]} of {size} images: a group has to leave some images out and some in")
    if count < 1:
        raise InvalidInput(f"count is {count}; it is the number of groups of each kind and share, so 1 or more")
