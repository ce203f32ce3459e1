"""Several datasets as one: their samples one after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from influence_core.data.dataset import LabelledDataset
from influence_core.data.shareable import Shareable
from influence_core.errors import InvalidInput


class _Joined(Shareable, Dataset[tuple[Tensor, int]]):
    """Index into several datasets, each of which guards its own reading."""

    def __init__(self, parts: Sequence[LabelledDataset]) -> None:
        self.parts = list(parts)
        self.ends = list(accumulate(map(len, self.parts)))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        part, row = self.place(index)
        return self.parts[part][row]

    def place(self, index: int) -> tuple[int, int]:
        """Which part a sample is of, and which sample of it."""
        part = bisect_right(self.ends, index)
        return part, index - (self.ends[part - 1] if part else 0)

    def inputs(self, ids: Tensor) -> Tensor:
        places = [self.place(i) for i in ids.tolist()]
        found: list[Tensor | None] = [None] * len(places)
        for number, part in enumerate(self.parts):
            own = [at for at, (which, _) in enumerate(places) if which == number]
            if own:
                for at, row in zip(own, part.batch([places[at][1] for at in own])[0], strict=True):
                    found[at] = row
        return torch.stack([row for row in found if row is not None])

    def picture(self, index: int) -> Image.Image:
        part, row = self.place(index)
        return self.parts[part].picture(row)


def join(parts: Sequence[LabelledDataset], name: str = "train") -> LabelledDataset:
    """Several datasets as one, one after the other, such as two sources that are to be told apart.

    Args:
        parts: of samples of one shape and of the same classes; at least one. None of them changes.
        name: of the whole, for messages.

    Returns:
        A dataset whose first ids are those of the first part. True labels, file paths and sample ids are there if all
        parts have them, and sample ids only if none occurs twice.

    Raises:
        InvalidInput: if there is no part, or the parts have other classes.

    Example:
        >>> import influence_core as ic
        >>> study = ic.demo.digits()
        >>> both = ic.data.join([study.train, study.validation])
        >>> len(both) == len(study.train) + len(study.validation)
        True
    """
    if not parts:
        raise InvalidInput("there is no dataset to join; give at least one")
    names = {tuple(part.class_names) for part in parts if part.class_names is not None}
    if len(names) > 1:
        raise InvalidInput("the datasets have other classes, or in another order, so their labels mean other things")
    true = [part.true_labels for part in parts if part.true_labels is not None]
    paths = [path for part in parts for path in part.filepaths or ()]
    ids = [one for part in parts for one in part.sample_ids or ()]
    base = _Joined(parts)
    size = len(base)
    return LabelledDataset(
        base,
        labels=torch.cat([part.labels for part in parts]),
        true_labels=torch.cat(true) if len(true) == len(parts) else None,
        class_names=list(names.pop()) if names else None,
        pictures=base.picture,
        filepaths=paths if len(paths) == size else None,
        sample_ids=ids if len(set(ids)) == size else None,
        name=name,
    )
