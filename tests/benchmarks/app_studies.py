"""Studies that try the app: ``python -m tests.benchmarks.app_studies --out FOLDER [--data FOLDER]``.

``resnet18``: a ResNet-18 of CIFAR's shape with two checkpoints and 2,000 training images of CIFAR-10 with the labels of
CIFAR-10N (``--data``: the folder of ``cifar10n_train.parquet``), or generated ones where that is missing.
``one_epoch``: the same after one epoch, with one checkpoint.
``fifty_thousand``: 50,000 generated pictures, a tenth of their labels wrong. ``thousand_classes``: 1,000 classes with
names of all lengths and several scripts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.data import LabelledDataset

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SYLLABLES = ["ka", "lo", "mi", "tur", "ven", "so", "pra", "del", "nu", "fi", "gor", "ela"]


def patterns(count: int, classes: int, shape: tuple[int, ...], noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures of ``classes`` random patterns under noise, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    same = torch.Generator().manual_seed(0)  # for training and test
    prototypes = torch.randn(classes, *shape, generator=same)
    if classes > 10:  # families of five that are like each other
        prototypes = 0.5 * prototypes + torch.randn(classes // 5, *shape, generator=same)[torch.arange(classes) // 5]
    labels = torch.randint(0, classes, (count,), generator=generator)
    return prototypes[labels] + noise * torch.randn(count, *shape, generator=generator), labels


def wrong(labels: Tensor, classes: int, share: float, seed: int) -> Tensor:
    """Labels of which a share is changed to another class."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(len(labels), generator=generator) < share
    shift = torch.randint(1, classes, (len(labels),), generator=generator)
    return torch.where(chosen, (labels + shift) % classes, labels)


def resnet18(data: Path | None, images: int = 2000, epochs: int = 2, seed: int = 0) -> ic.Study:
    """A ResNet-18 for pictures of 32 x 32, trained briefly, with two checkpoints."""
    torch.manual_seed(seed)
    file = None if data is None else data / "cifar10n_train.parquet"
    if file is not None and file.exists():
        both = ic.data.parquet_images(
            file, label="worse_label", true_label="label", mean=MEAN, std=STD, class_names=CLASSES
        )
        ids = torch.randperm(len(both), generator=torch.Generator().manual_seed(seed))[: images + 500]
        inputs, given = both.batch(ids)
        truth = both.true_labels
        assert truth is not None
        truth = truth[ids]
    else:
        inputs, truth = patterns(images + 500, 10, (3, 32, 32), 3.0, seed)
        given = wrong(truth, 10, 0.4, seed)
    train = LabelledDataset(
        TensorDataset(inputs[:images], given[:images]), true_labels=truth[:images], class_names=CLASSES, name="train"
    )
    test = LabelledDataset(TensorDataset(inputs[images:], truth[images:]), class_names=CLASSES, name="test")
    model = ic.models.build("cifar_resnet", depth=18, width=64)
    trajectory = ic.training.fit(model, train, epochs=epochs, checkpoints=epochs, learning_rate=0.05, seed=seed)
    name = f"ResNet-18, {images:,} pictures"
    return ic.Study(model, train, test, trajectory=trajectory, weight_decay=5e-4, name=name)


def fifty_thousand(count: int = 50_000, seed: int = 0) -> ic.Study:
    """A small CNN on 50,000 generated pictures, a tenth of the labels wrong."""
    torch.manual_seed(seed)
    inputs, truth = patterns(count, 10, (1, 16, 16), 4.0, seed + 1)
    train = LabelledDataset(
        TensorDataset(inputs, wrong(truth, 10, 0.1, seed)), true_labels=truth, class_names=CLASSES, name="train"
    )
    test = LabelledDataset(
        TensorDataset(*patterns(5000, 10, (1, 16, 16), 4.0, seed + 2)), class_names=CLASSES, name="test"
    )
    model = ic.models.build("small_cnn", channels=1, classes=10)
    trajectory = ic.training.fit(model, train, epochs=2, checkpoints=2, seed=seed)
    return ic.Study(model, train, test, trajectory=trajectory, weight_decay=5e-4, name="50,000 generated pictures")


def class_names(count: int, seed: int = 0) -> list[str]:
    """Made-up names; among them a very long one, Hebrew, and some that look like markup."""
    generator = torch.Generator().manual_seed(seed)
    names: dict[str, None] = {}
    special = ["שלום עולם", "a" * 300, "**bold** $x^2$ <b>tag</b>", "=1+1", "[link](http://example.org)", "two\nlines"]
    names.update(dict.fromkeys(special))
    while len(names) < count:
        parts = [
            SYLLABLES[int(i)] for i in torch.randint(0, len(SYLLABLES), (2 + len(names) % 5,), generator=generator)
        ]
        names["".join(parts) + (f" {parts[0]}{parts[-1]}" if len(names) % 3 == 0 else "")] = None
    return list(names)


def many_classes(classes: int = 1000, seed: int = 0) -> ic.Study:
    """A perceptron that confuses many of its classes."""
    torch.manual_seed(seed)
    names = class_names(classes)
    sets = {}
    for name, count in (("train", 8 * classes), ("test", 2 * classes)):
        inputs, labels = patterns(count, classes, (1, 12, 12), 1.2, seed + len(sets) + 1)
        given = wrong(labels, classes, 0.1, seed) if name == "train" else labels
        truth = labels if name == "train" else None
        sets[name] = LabelledDataset(TensorDataset(inputs, given), true_labels=truth, class_names=names, name=name)
    model = ic.models.build("mlp", inputs=144, hidden=256, classes=classes)
    trajectory = ic.training.fit(model, sets["train"], epochs=30, checkpoints=3, learning_rate=0.1, seed=seed)
    return ic.Study(model, sets["train"], sets["test"], trajectory=trajectory, name=f"{classes:,} generated classes")


def main(
    out: Annotated[Path, typer.Option(help="Folder to write the studies to.")],
    data: Annotated[Path | None, typer.Option(help="Folder of cifar10n_train.parquet.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Names of the studies to make; all by default.")] = None,
) -> None:
    """Make the studies."""
    makers = {
        "resnet18": lambda: resnet18(data),
        "one_epoch": lambda: resnet18(data, epochs=1),
        "fifty_thousand": fifty_thousand,
        "hundred_classes": lambda: many_classes(100),
        "thousand_classes": many_classes,
    }
    for name in only or makers:
        study = makers[name]()
        typer.echo(f"{study.save(out / name)}: {study}, test accuracy {study.accuracy():.3f}")


if __name__ == "__main__":
    typer.run(main)
