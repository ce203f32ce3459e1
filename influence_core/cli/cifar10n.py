"""``new cifar10n``: CIFAR-10 with the labels that people gave, of which four in ten are wrong, at the size of a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from influence_core._torchvision import torchvision
from influence_core.cli.console import say
from influence_core.data import LabelledDataset, cifar_n_labels, parquet_images
from influence_core.errors import InvalidInput
from influence_core.models import build
from influence_core.study import Study
from influence_core.training import fit, seeded

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
TRAIN, TEST = "cifar10n_train.parquet", "cifar10_test.parquet"
LABELS = "CIFAR-10_human.pt"
IMAGES, TESTS, VALIDATION = 10_000, 2_000, 1_000

RECIPE: dict[str, Any] = {"epochs": 8, "learning_rate": 0.1, "weight_decay": 5e-4, "batch_size": 128, "checkpoints": 4}
"""Few epochs: the network stops before it knows the wrong labels by heart."""


def cifar10n(folder: Path, images: int | None = None, seed: int = 0) -> Study:
    """CIFAR-10 with the "worse" labels of CIFAR-10N (Wei et al. 2022, arXiv:2110.12088), and a small network.

    Args:
        folder: with the Parquet files ``cifar10n_train.parquet`` (columns image, label, worse_label) and
            ``cifar10_test.parquet`` (image, label); or with CIFAR-10 as torchvision keeps it, and
            ``CIFAR-10_human.pt``.
        images: training images, spread evenly; 10,000 by default.
        seed: of weights and batches.

    Returns:
        The study: clean validation and test images that share none.

    Raises:
        InvalidInput: if the files are not there.
    """
    train, clean = _parquet(folder) if (folder / TRAIN).is_file() else _published(folder)
    count = min(IMAGES if images is None else images, len(train))
    if count < 1:
        raise InvalidInput(f"--images {count}: at least one training image is needed")
    train = _spread(train, count, "train")
    tests = _spread(clean, min(TESTS + VALIDATION, len(clean)), "test")
    places = torch.arange(len(tests))
    validation, test = tests.subset(places[places % 3 == 0]), tests.subset(places[places % 3 != 0])
    validation.name, test.name = "validation", "test"
    say(f"note: {count:,} training images with the labels that people gave, {RECIPE['epochs']} epochs")
    with seeded(seed, torch.device("cpu")):
        model = build("small_cnn", channels=3, classes=len(CLASSES), width=32)
    trajectory = fit(model, train, seed=seed, title="training the network", **RECIPE)
    return Study(model, train, test, validation, trajectory, name="CIFAR-10N, labels that people gave")


def _parquet(folder: Path) -> tuple[LabelledDataset, LabelledDataset]:
    scaling: dict[str, Any] = {"mean": MEAN, "std": STD, "class_names": CLASSES}
    if not (folder / TEST).is_file():
        raise InvalidInput(f"{folder} has {TRAIN}, but no {TEST}: both are needed")
    train = parquet_images(folder / TRAIN, label="worse_label", true_label="label", name="train", **scaling)
    return train, parquet_images(folder / TEST, label="label", name="test", **scaling)


def _published(folder: Path) -> tuple[LabelledDataset, LabelledDataset]:
    """CIFAR-10 as it is published, and CIFAR-10N's own label file."""
    vision = torchvision()
    steps = vision.transforms.v2
    transform = steps.Compose(
        [steps.ToImage(), steps.ToDtype(torch.float32, scale=True), steps.Normalize(list(MEAN), list(STD))]
    )
    try:
        parts = [
            vision.datasets.CIFAR10(folder, train=train, transform=transform, download=False) for train in (True, False)
        ]
    except (RuntimeError, OSError) as error:
        raise InvalidInput(
            f"{folder} holds neither {TRAIN} and {TEST}, nor CIFAR-10 (cifar-10-batches-py): give the folder with one "
            "of them"
        ) from error
    labels = cifar_n_labels(folder / LABELS, "worse_label")
    train = LabelledDataset(parts[0], labels=labels, true_labels=parts[0].targets, class_names=CLASSES, name="train")
    return train, LabelledDataset(parts[1], class_names=CLASSES, name="test")


def _spread(data: LabelledDataset, count: int, name: str) -> LabelledDataset:
    some = data.subset((torch.arange(count, dtype=torch.float64) * len(data) / count).long())
    some.name = name
    return some
