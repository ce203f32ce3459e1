"""Two sources of images told apart by self-influence: Table 4 of GEX.

The paper mixes MNIST with SVHN. Here half of the images are digits, and the other half are grey 8 x 8 thumbnails of
CIFAR-10 with their own ten labels (``--data``), or without a folder further digits, inverted, turned, blurred, and with
their labels exchanged for one another. The second source is the one that should have the higher scores.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.applications import otsu
from influence_core.data import LabelledDataset
from tests.benchmarks.paper_tables.gex import DETECTORS
from tests.benchmarks.paper_tables.shared import Case, Rows, auc_and_ap, suspicion

METHODS = ("GEX", "GEX-lin", "RandProj", "TracInRP", "Arnoldi", "EL2N", "control: loss")
EPOCHS = 30
"""Of plain SGD; the checkpoints are those of the demo."""

Images = tuple[Tensor, Tensor]
"""Inputs [N, 1, 8, 8] in 0..1 and labels [N]."""


def strange(images: Images, seed: int) -> Images:
    """Digits as another source: inverted, turned by a quarter, blurred, each label always exchanged for another."""
    inputs, labels = images
    turned = torch.rot90(1 - inputs, 1, (2, 3))
    exchanged = torch.randperm(10, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(turned, 3, 1, 1, count_include_pad=False), exchanged[labels]


def thumbnails(folder: Path, count: int, seed: int) -> Images:
    """Random pictures of CIFAR-10's test set in grey and 8 x 8."""
    pictures = ic.data.parquet_images(folder / "cifar10_test.parquet", size=(8, 8))
    chosen = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))[:count]
    inputs, labels = pictures.batch(chosen)
    return inputs.mean(1, keepdim=True), labels


def mixed(case: Case) -> tuple[ic.Study, Tensor]:
    """A study of as many images from each source, and which training images are of the second, bool [N]."""
    splits, half = ic.data.digits(0.0, case.seed), case.images // 2
    (inputs, labels), test = (data.batch(range(len(data))) for data in (splits.train, splits.test))
    own, tested = (inputs[:half], labels[:half]), len(test[1]) // 2
    if case.data is None:
        other = strange((inputs[half : 2 * half], labels[half : 2 * half]), case.seed)
        unseen = strange((test[0][tested:], test[1][tested:]), case.seed)
    else:
        drawn = thumbnails(case.data, half + tested, case.seed)
        other, unseen = (drawn[0][:half], drawn[1][:half]), (drawn[0][half:], drawn[1][half:])
    train = _joined(own, other, "train")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        model = ic.models.build("small_cnn", channels=1, classes=10)
        recipe = {"epochs": EPOCHS, "batch_size": 64, "checkpoints": min(6, EPOCHS)}
        trajectory = ic.training.fit(model, train, seed=case.seed, **recipe)
    test_set = _joined((test[0][:tested], test[1][:tested]), unseen, "test")
    study = ic.Study(model, train, test_set, trajectory=trajectory, weight_decay=trajectory.recipe.weight_decay)
    return study, torch.arange(len(train)) >= half


def _joined(own: Images, other: Images, name: str) -> LabelledDataset:
    parts = [torch.cat(pair) for pair in zip(own, other, strict=True)]
    return LabelledDataset(TensorDataset(*parts), name=name)


def table4(case: Case) -> Rows:
    study, second = mixed(case)
    right = study.predictions("test") == study.test.labels
    half = len(study.split("test")) // 2
    for source, hits in (("digits", right[:half]), ("second source", right[half:])):
        yield f"test accuracy, {source}", {"accuracy": 100 * float(hits.double().mean())}
    for title in METHODS:
        scores = suspicion(study, DETECTORS[title])
        apart = (scores > otsu(scores)) == second
        yield title, auc_and_ap(second, scores) | {"in the right group by Otsu": 100 * float(apart.double().mean())}
