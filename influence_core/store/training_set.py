"""A training set as a change of the study's own, in plain values: what another process makes the same set of.

Trainings are asked for with datasets; of nearly all of them some images of ``study.train`` are left out, or have other
labels. Said so, a set is named without reading an image, and is a few numbers in a job's table.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput, NotSupported


@dataclass(frozen=True)
class TrainingSet:
    """What a training set is, seen from the training set of a study.

    Attributes:
        removed: ids of the images that are left out, ascending; the others keep their order.
        labels: id and new label of each image that stays with another one.
        weights: place in the set and weight of each image whose loss does not count once; ``None`` without weights.
        other: fingerprint of a set that is no such change; only this process has it.
    """

    removed: tuple[int, ...] = ()
    labels: tuple[tuple[int, Any], ...] = ()
    weights: tuple[tuple[int, float], ...] | None = None
    other: str | None = None

    @classmethod
    def of(cls, train: LabelledDataset, data: LabelledDataset, weights: Tensor | None = None) -> TrainingSet:
        """Compare a set with that of the study; no image is read.

        Args:
            train: of the study.
            data: to train on.
            weights: of the loss of each image, float64 [n].

        Returns:
            What it is.
        """
        factors = None
        if weights is not None:
            factors = tuple((i, float(weights[i])) for i in (weights != 1).nonzero().flatten().tolist())
        if data is train:
            return cls(weights=factors)
        places = data.places_in(train)
        if places is None or any(b <= a for a, b in itertools.pairwise(places)):
            return cls(weights=factors, other=data.fingerprint)
        ids = torch.tensor(places, dtype=torch.long)
        gone = torch.ones(len(train), dtype=torch.bool)
        gone[ids] = False
        try:
            changed = (data.labels != train.labels[ids]).reshape(len(ids), -1).any(1)
        except NotSupported:  # labels that are no tensor
            return cls(weights=factors, other=data.fingerprint)
        labels = zip(ids[changed].tolist(), data.labels[changed].tolist(), strict=True)
        return cls(tuple(gone.nonzero().flatten().tolist()), tuple(labels), factors)

    def data(self, train: LabelledDataset) -> LabelledDataset:
        """The set.

        Args:
            train: of the study.

        Returns:
            ``train`` itself where nothing changes.

        Raises:
            NotSupported: if it is no change of that.
            InvalidInput: if there is no such image.
        """
        self.check()
        if self.labels:
            ids = torch.tensor([i for i, _ in self.labels])
            labels = train.labels.clone()
            if int(ids.min()) < 0 or int(ids.max()) >= len(train):
                raise InvalidInput(f"there is no training image {int(ids.max())}; ids go from 0 to {len(train) - 1}")
            labels[ids] = torch.tensor([label for _, label in self.labels], dtype=labels.dtype)
            train = train.with_labels(labels)
        if not self.removed:
            return train
        stays = torch.ones(len(train), dtype=torch.bool)
        stays[torch.tensor(self.removed)] = False
        return train.subset(stays)

    def factors(self, size: int) -> Tensor | None:
        """The weight of each image's loss.

        Args:
            size: images in the set.

        Returns:
            float64 [n]; ``None`` without weights.
        """
        if self.weights is None:
            return None
        found = torch.ones(size, dtype=torch.float64)
        for place, weight in self.weights:
            found[place] = weight
        return found

    def check(self) -> None:
        """Refuse a set that only this process has.

        Raises:
            NotSupported: if it is no change of the study's own.
        """
        if self.other is not None:
            raise NotSupported(
                "no other process has this training set, which is no choice of the study's own images in their order: "
                "train in this process, or make the set with study.train.subset(ids) and .with_labels(labels)"
            )

    def facts(self) -> dict[str, Any]:
        """It in plain values, as JSON."""
        return asdict(self)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> TrainingSet:
        """It from ``facts``, after a way through JSON."""
        weights = facts["weights"]
        return cls(
            tuple(facts["removed"]),
            tuple((i, label) for i, label in facts["labels"]),
            None if weights is None else tuple((i, weight) for i, weight in weights),
            facts["other"],
        )

    @property
    def sha256(self) -> str:
        """Name of it, which with the study says all."""
        return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()
