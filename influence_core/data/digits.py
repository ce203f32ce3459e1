"""scikit-learn's handwritten digits: 1,797 real scans of 8x8 pixels, bundled with that package."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import TensorDataset

from influence_core.data.dataset import LabelledDataset
from influence_core.data.noise import symmetric_noise
from influence_core.threads import uninterrupted

TRAIN, VALIDATION = 1000, 300
"""Sizes of the training and validation sets; the other 497 scans are the test set."""


class Splits(NamedTuple):
    """Three disjoint datasets; only ``train`` carries label noise."""

    train: LabelledDataset
    validation: LabelledDataset
    test: LabelledDataset


def digits(noise: float = 0.1, seed: int = 0) -> Splits:
    """Split the digits at random and change a share of the training labels.

    Args:
        noise: share of training labels that are changed to another class, 0 to 1.
        seed: of the split and of the noise.

    Returns:
        Train (1000), clean validation (300) and test (497), inputs float32 [1, 8, 8] in 0..1.
    """
    with uninterrupted():
        from sklearn.datasets import load_digits

    scans = load_digits()
    grey = np.asarray(scans.images, dtype=np.float32) / 16.0
    inputs = torch.from_numpy(grey)[:, None]
    labels = torch.from_numpy(np.asarray(scans.target)).long()
    order = torch.randperm(labels.numel(), generator=torch.Generator().manual_seed(seed))
    parts = order[:TRAIN], order[TRAIN : TRAIN + VALIDATION], order[TRAIN + VALIDATION :]
    names = [str(d) for d in range(10)]

    def part(ids: torch.Tensor, name: str, rate: float) -> LabelledDataset:
        true = labels[ids]
        return LabelledDataset(
            TensorDataset(inputs[ids], symmetric_noise(true, rate, 10, seed)),
            true_labels=true,
            class_names=names,
            name=name,
        )

    return Splits(part(parts[0], "train", noise), part(parts[1], "validation", 0.0), part(parts[2], "test", 0.0))
