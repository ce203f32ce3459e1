"""Which label every training image has, and which images are left out: what a mend decides, and what it is held up to.

A control changes exactly as many images as the decisions do, so that nothing but the choice of the images, or of their
labels, is compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Labelling:
    """Labels of all training images, and which of them stay.

    Attributes:
        labels: int64 [N].
        keep: bool [N].
    """

    labels: Tensor
    keep: Tensor

    @classmethod
    def given(cls, train: LabelledDataset) -> Labelling:
        """The labels as they are, of all images."""
        return cls(train.labels.clone(), torch.ones(len(train), dtype=torch.bool))

    def data(self, train: LabelledDataset) -> LabelledDataset:
        """The training set with these labels, without the images that are left out.

        Args:
            train: as it was.

        Returns:
            ``train`` itself where nothing changes.
        """
        changed = train if torch.equal(self.labels, train.labels) else train.with_labels(self.labels)
        return changed if bool(self.keep.all()) else changed.subset(self.keep.nonzero().flatten())

    def relabelled(self, train: LabelledDataset) -> Tensor:
        """Ids of the images that stay with another label, int64, ascending."""
        return ((self.labels != train.labels) & self.keep).nonzero().flatten()

    def excluded(self) -> Tensor:
        """Ids of the images that are left out, int64, ascending."""
        return (~self.keep).nonzero().flatten()

    def touched(self, train: LabelledDataset) -> Tensor:
        """Ids of the images that change, int64, ascending."""
        return ((self.labels != train.labels) | ~self.keep).nonzero().flatten()

    def at_random(self, train: LabelledDataset, classes: int, seed: int) -> Labelling:
        """As many images relabelled and as many left out, of all training images with equal chance.

        Args:
            train: as it was.
            classes: K; a new label is one of the others with equal chance.
            seed: of the draw.

        Returns:
            Labels that differ from the given ones for exactly as many images, others that are left out.
        """
        count, gone = len(self.relabelled(train)), len(self.excluded())
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(len(train), generator=generator)[: count + gone]
        found = Labelling.given(train)
        shift = torch.randint(1, max(2, classes), (count,), generator=generator)
        found.labels[drawn[:count]] = (train.labels[drawn[:count]] + shift) % classes
        found.keep[drawn[count:]] = False
        return found

    def checked_at_random(self, train: LabelledDataset, seed: int) -> Labelling:
        """As many images looked at by somebody who knows the truth, drawn with equal chance: their true labels.

        Args:
            train: with true labels.
            seed: of the draw.

        Returns:
            True labels for the images drawn; where theirs were right already, nothing changes.
        """
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(len(train), generator=generator)[: len(self.touched(train))]
        return Labelling.given(train).clean(train, drawn)

    def clean(self, train: LabelledDataset, ids: Tensor | None = None) -> Labelling:
        """The given labels, with the true ones for some images, or all of them; none is left out.

        Args:
            train: with true labels.
            ids: of the images, int64; all by default.

        Returns:
            The labels.

        Raises:
            InvalidInput: if the true labels are unknown.
        """
        if train.true_labels is None:
            raise InvalidInput("clean labels need true labels: LabelledDataset(..., true_labels=...)")
        found = Labelling.given(train)
        chosen = torch.arange(len(train)) if ids is None else ids
        found.labels[chosen] = train.true_labels[chosen]
        return found
