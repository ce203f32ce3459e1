"""Folders with one sub-folder per class as datasets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from influence_core.data.dataset import LabelledDataset
from influence_core.data.encoded import EncodedImages, Origin
from influence_core.data.opening import SUFFIXES, check_plain
from influence_core.data.preprocessing import preprocessing
from influence_core.data.sources import Files
from influence_core.errors import InvalidInput

Transform = Callable[[Image.Image], Any]
"""From a PIL picture to the input tensor: a transform of torchvision, ``weights.transforms()``, or any function."""


def image_folder(
    path: str | Path,
    *,
    transform: Transform | None = None,
    size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    name: str = "images",
) -> LabelledDataset:
    """Read ``path/CLASS/picture.png``: the folder a picture lies in is its given label.

    Args:
        path: folder with one sub-folder per class.
        transform: what the model was evaluated with, such as ``weights.transforms()``, instead of the next three. It
            gets what torchvision's ``ImageFolder`` would give it, a picture in colour.
        size: (height, width) to resize to; needed unless all pictures have one size.
        mean: of each channel, as the model was trained with; one value for grey, three for colour; by default zeros.
        std: of each channel; by default ones.
        class_names: the classes in the order of the model's outputs; by default the sub-folders, sorted.
        name: what messages call it.

    Returns:
        The dataset; true labels are unknown.

    Raises:
        InvalidInput: if there is no such folder, no picture, a sub-folder that is no class, a pipe as a picture, or a
            transform that is random.
    """
    root = checked_path(path)
    folders = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != ".") if root.is_dir() else []
    if not root.is_dir():
        raise InvalidInput(f"there is no folder {root}")
    if not folders:
        raise InvalidInput(f"{root} has no sub-folders: one folder per class is needed, as in {root}/cat/001.png")
    classes = list(class_names) if class_names is not None else folders
    unknown = sorted(set(folders) - set(classes))
    if unknown:
        raise InvalidInput(f"{root} has the folder {unknown[0]!r}, which is none of the classes {', '.join(classes)}")
    files = [
        (file, label)
        for label, folder in enumerate(classes)
        for file in sorted((root / folder).rglob("*"))
        if file.suffix.lower() in SUFFIXES and file.name[0] != "."
    ]
    if not files:
        raise InvalidInput(f"{root} holds no picture; these endings are read: {', '.join(SUFFIXES)}")
    for file, _ in files:
        check_plain(file)
    way = preprocessing(transform, size, mean, std, name)
    names = [file.relative_to(root).as_posix() for file, _ in files]
    labels = torch.tensor([label for _, label in files])
    origin = Origin("folder", root.absolute(), {}, labels, filepaths=names)
    images = EncodedImages(Files(root, names), labels, preprocessing=way, origin=origin)
    return LabelledDataset(images, class_names=classes, pictures=images.picture, filepaths=names, name=name)


def checked_path(path: str | Path) -> Path:
    """A path that the system can look up.

    Args:
        path: of a file or folder.

    Returns:
        The path.

    Raises:
        InvalidInput: if it has a NUL character, which no name can have.
    """
    if "\0" in str(path):
        raise InvalidInput(f"{str(path)!a} is no path: it has a NUL character, which no file name can have")
    return Path(path)
