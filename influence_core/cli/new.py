"""``new``: a study of pictures in a folder or a table, with weights that are there or trained here."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from torch import nn

from influence_core.cli.cifar10n import cifar10n
from influence_core.cli.console import say, settings
from influence_core.data import LabelledDataset, image_folder, image_table
from influence_core.data import split as split_at_random
from influence_core.errors import InvalidInput
from influence_core.models import build, load_plugin, load_weights
from influence_core.models.architectures import builder_of
from influence_core.study import Study
from influence_core.study_checks import SPLITS
from influence_core.training import fit, seeded

Answer = tuple[dict[str, Any], str]

FOLDERS = {"train": ("train", "training"), "validation": ("validation", "valid", "val"), "test": ("test", "testing")}
"""Names of sub-folders, and words of a split column, that mean a part."""

TRIED = 256
"""Pictures whose size is looked at."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, which the weights of torchvision and most of timm were trained with."""


@dataclass(frozen=True)
class Pictures:
    """Where pictures lie and what is done to them.

    Attributes:
        columns: arguments of ``image_table``.
        scaling: size, mean and std of the loaders.
        classes: names in the order of the labels, once they are known.
    """

    columns: dict[str, Any]
    scaling: dict[str, Any]
    classes: list[str] | None = None

    def read(self, path: Path, name: str, **more: Any) -> LabelledDataset:
        """The pictures of a folder or table."""
        if path.is_dir():
            return image_folder(path, class_names=self.classes, name=name, **self.scaling)
        return image_table(path, class_names=self.classes, name=name, **self.columns, **more, **self.scaling)


def make(
    name: str,
    data: Path | None,
    test: Path | None,
    out: Path | None,
    weights: Path | None,
    architecture: str | None,
    set_: list[str] | None,
    plugin: Path | None,
    file: str,
    label: str,
    true_label: str | None,
    split: str | None,
    size: str | None,
    mean: str | None,
    std: str | None,
    test_share: float,
    validation_share: float,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    images: int | None,
    seed: int,
    yes: bool,
) -> Answer:
    """Make and write a study; the arguments are those of the command.

    Returns:
        Facts, and what to print.

    Raises:
        InvalidInput: if something is missing or does not fit.
    """
    folder = Path(name) if out is None else out
    if (folder / "study.toml").exists():
        raise InvalidInput(f"there is a study in {folder} already: choose another name or --out, or remove it first")
    path = _asked("data", data, yes, "Folder, CSV or Parquet file of the pictures")
    if not path.exists():
        raise InvalidInput(f"there are no pictures at {path}: give a folder, or a CSV or Parquet file")
    if name == "cifar10n":
        study = cifar10n(path, images, seed)
        return _written(study, folder)
    columns = {"file": file or _image_column(path), "label": label, "true_label": true_label, "split": split}
    columns = {key: value for key, value in columns.items() if value is not None}
    scaling = {"mean": _numbers("mean", mean), "std": _numbers("std", std), "size": _size(size)}
    pictures = Pictures(columns, {key: value for key, value in scaling.items() if value is not None})
    parts = _parts(pictures, path, test, split, test_share, validation_share, seed, yes, weights, architecture)
    if images is not None and len(parts["train"]) > images:
        step = len(parts["train"]) / images
        parts["train"] = parts["train"].subset([int(i * step) for i in range(images)])
        parts["train"].name = "train"
    model = _model(parts["train"], architecture, settings(set_), plugin, seed)
    trajectory = None
    if weights is not None:
        load_weights(model, weights)
    else:
        say(f"note: no --weights, so {architecture or 'small_cnn'} is trained here, {epochs} epochs of SGD")
        trajectory = fit(
            model,
            parts["train"],
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            seed=seed,
            title="training the network",
        )
    study = Study(model, parts["train"], parts["test"], parts.get("validation"), trajectory, name=name)
    return _written(study, folder, plugin)


def _written(study: Study, folder: Path, plugin: Path | None = None) -> Answer:
    file = study.save(folder, plugin=plugin)
    facts = {
        "study": str(file),
        "classes": study.class_names,
        "train": len(study.train),
        "test": len(study.test),
        "train_accuracy": round(study.accuracy("train"), 4),
        "test_accuracy": round(study.accuracy(), 4),
        "misclassified": len(study.misclassified()),
    }
    text = (
        f"{file}: {study}\n"
        f"accuracy {study.accuracy():.1%} on the test images ({facts['misclassified']:,} wrong), "
        f"{study.accuracy('train'):.1%} on the labels it was trained on\nnext: influence doctor {folder}"
    )
    return facts, text


def _asked(flag: str, value: Path | None, yes: bool, words: str) -> Path:
    if value is not None:
        return value
    return Path(_ask(flag, yes, words))


def _ask(flag: str, yes: bool, words: str, default: str | None = None) -> str:
    """What only a person knows: asked in a terminal, refused elsewhere."""
    if default is not None and yes:
        return default
    if yes or not sys.stdin.isatty():
        raise InvalidInput(f"{words}: give --{flag.replace('_', '-')}, as nobody can be asked here")
    return str(typer.prompt(words, default=default, err=True))


def _parts(
    pictures: Pictures,
    path: Path,
    test: Path | None,
    split: str | None,
    test_share: float,
    validation_share: float,
    seed: int,
    yes: bool,
    weights: Path | None,
    architecture: str | None,
) -> dict[str, LabelledDataset]:
    """The datasets of the study, by their names in ``Study``."""
    first = _first(pictures, path, split)
    scaling = _scaled(pictures.scaling, first, yes, weights, architecture)
    known = Pictures(pictures.columns, scaling, first.class_names)
    folders = _named_folders(path)
    if folders:
        found = {part: known.read(where, part) for part, where in folders.items()}
    elif split is not None:
        found = {part: known.read(path, part, splits=word) for part, word in _words(path, split).items()}
    else:
        found = {"train": known.read(path, "train")}
    if test is not None:
        found["test"] = known.read(test, "test")
    missing = {part: share for part, share in (("validation", validation_share), ("test", test_share)) if share}
    missing = {part: share for part, share in missing.items() if part not in found}
    if missing:
        drawn = split_at_random(
            found["train"], validation=missing.get("validation", 0.0), test=missing.get("test", 0.0), seed=seed
        )
        found |= {part: made for part in SPLITS if (made := getattr(drawn, part)) is not None}
    if "test" not in found:
        raise InvalidInput("a study needs test images: give --test PATH, or a --test-share above 0")
    return found


def _first(pictures: Pictures, path: Path, split: str | None) -> LabelledDataset:
    """The training pictures as they are, to see their classes and sizes."""
    folders = _named_folders(path)
    if folders and "train" not in folders:
        raise InvalidInput(f"{path} has the folders {', '.join(folders)}, but none called train")
    more = {"splits": _words(path, split)["train"]} if split is not None and not folders else {}
    return Pictures(pictures.columns, {}).read(folders.get("train", path), "train", **more)


def _named_folders(path: Path) -> dict[str, Path]:
    """The sub-folders of parts, where all sub-folders are such."""
    if not path.is_dir():
        return {}
    below = {p.name.lower(): p for p in path.iterdir() if p.is_dir() and p.name[0] != "."}
    found = {part: below[word] for part, words in FOLDERS.items() for word in words if word in below}
    return found if found and len(found) == len(below) else {}


def _words(path: Path, split: str) -> dict[str, str]:
    """The words by which a split column calls the parts."""
    from influence_core.data.columns import read_table

    there = sorted({str(cell) for cell in read_table(path, [split]).column(split).to_pylist()})
    found = {part: w for part, words in FOLDERS.items() for w in there if w.lower() in words}
    if "train" not in found:
        raise InvalidInput(f"the column {split!r} of {path} says {', '.join(there[:8])}, and nowhere train")
    return found


def _image_column(path: Path) -> str:
    return "image" if path.suffix.lower() == ".parquet" else "file"


def _scaled(
    scaling: dict[str, Any], first: LabelledDataset, yes: bool, weights: Path | None, architecture: str | None
) -> dict[str, Any]:
    """Size, mean and std, asked for or measured where they are not given."""
    found = dict(scaling)
    spread = [int(i * len(first) / min(TRIED, len(first))) for i in range(min(TRIED, len(first)))]
    shown = [first.picture(i) for i in spread]
    sizes = {image.size for image in shown}
    if "size" not in found and len(sizes) > 1:
        found["size"] = _size(_ask("size", yes, "The pictures differ in size; resize them to how many pixels", "32"))
    if "mean" in found or "std" in found:
        return found
    if weights is not None:
        foreign = (architecture or "").startswith(("torchvision:", "timm:"))
        default = ",".join(map(str, MEAN)) if foreign else None
        mean = _ask("mean", yes or foreign, "Mean of the channels that the network was trained with", default)
        wide = _ask(
            "std", yes or foreign, "Deviation of the channels, likewise", ",".join(map(str, STD)) if foreign else None
        )
        if foreign:
            say("note: ImageNet's mean and deviation; --mean and --std name others, and influence doctor tries some")
        return found | {"mean": _numbers("mean", mean), "std": _numbers("std", wide)}
    grey = all(image.mode == "L" for image in shown)
    small = [image.convert("L" if grey else "RGB").resize((32, 32)) for image in shown]
    import numpy as np

    values = np.stack([np.asarray(image, dtype=np.float64) for image in small]) / 255
    axes = (0, 1, 2)
    mean_, std_ = (values.mean(), values.std()) if grey else (values.mean(axes), values.std(axes))
    return found | {
        "mean": [round(float(v), 4) for v in np.atleast_1d(mean_)],
        "std": [round(max(float(v), 1e-3), 4) for v in np.atleast_1d(std_)],
    }


def _model(
    train: LabelledDataset, architecture: str | None, given: dict[str, Any], plugin: Path | None, seed: int
) -> nn.Module:
    """The network, with the number of classes and what else follows from the pictures."""
    name = architecture or "small_cnn"
    if plugin is not None:
        if architecture is None:
            raise InvalidInput(f"--plugin {plugin}: say which of its architectures, --architecture NAME")
        name = load_plugin(plugin).named(architecture)
    inputs = train.batch([0])[0]
    classes = len(train.class_names or ()) or int(train.labels.max()) + 1
    known = {
        "classes": classes,
        "num_classes": classes,
        "channels": inputs.shape[1],
        "in_chans": inputs.shape[1],
        "inputs": inputs[0].numel(),
    }
    foreign = {"torchvision": ("num_classes",), "timm": ("num_classes", "in_chans")}
    source = name.partition(":")[0]
    takes = foreign.get(source) or tuple(inspect.signature(builder_of(name)).parameters)
    arguments = {key: value for key, value in known.items() if key in takes} | given
    with seeded(seed, torch.device("cpu")):
        return build(name, **arguments)


def _size(words: str | None) -> tuple[int, int] | None:
    if words is None:
        return None
    try:
        numbers = [int(word) for word in words.lower().split("x")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers, default=0) < 1:
        raise InvalidInput(f"--size {words!r}: expected pixels such as 32, or HEIGHTxWIDTH such as 32x48")
    return numbers[0], numbers[-1]


def _numbers(flag: str, words: str | None) -> list[float] | None:
    if words is None:
        return None
    try:
        return [float(word) for word in words.split(",")]
    except ValueError as error:
        raise InvalidInput(f"--{flag} {words!r}: expected numbers such as 0.5,0.5,0.5") from error
