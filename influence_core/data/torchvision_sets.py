"""Datasets of torchvision as they are: labels, file paths, pictures for people, and where they lie on the disk."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Subset

from influence_core._torchvision import torchvision
from influence_core.data.encoded import EncodedImages, Origin
from influence_core.data.labels import label_tensor, read_labels
from influence_core.data.preprocessing import Transformed
from influence_core.data.sources import Files, Pixels
from influence_core.errors import InvalidInput

IN_MEMORY: dict[str, str] = {
    "CIFAR10": "train",
    "CIFAR100": "train",
    "MNIST": "train",
    "FashionMNIST": "train",
    "KMNIST": "train",
    "SVHN": "split",
    "STL10": "split",
}
"""Datasets that a study file can name, and the argument that says which part; torchvision keeps all in memory."""

_FOLDERS = ("ImageFolder", "DatasetFolder")


class Adopted(NamedTuple):
    """What is known of a dataset of torchvision.

    Attributes:
        base: gives its inputs.
        ids: which samples of ``base``, if not all.
        labels: of the samples, if ``base`` does not tell.
        class_names: or ``None``.
        picture: what a person should see of a sample.
        filepaths: relative to the dataset's folder, or ``None``.
    """

    base: Any
    ids: list[int] | None
    labels: Any
    class_names: list[str] | None
    picture: Callable[[int], Any] | None
    filepaths: list[str] | None


def adopted(base: Any, name: str) -> Adopted | None:
    """Make the most of a dataset of torchvision, or of a ``Subset`` of one.

    Args:
        base: any dataset.
        name: what messages call it.

    Returns:
        What is known; ``None`` for datasets of others.
    """
    if isinstance(base, Subset):
        whole = adopted(base.dataset, name)
        ids = [int(i) for i in base.indices]
        if whole is None or whole.ids is not None or not isinstance(whole.base, EncodedImages):
            return None
        paths = None if whole.filepaths is None else [whole.filepaths[i] for i in ids]
        labels = whole.base.labels[torch.tensor(ids, dtype=torch.int64)]
        return Adopted(whole.base, ids, labels, whole.class_names, _Picked(whole.base.picture, ids), paths)
    if type(base).__module__.partition(".")[0] != "torchvision" or not hasattr(base, "transforms"):
        return None
    names = getattr(base, "classes", None)
    names = [str(c) for c in names] if isinstance(names, (list, tuple)) else None
    source = _source(base)
    paths = source.names if isinstance(source, Files) else None
    if source is not None and base.transform is not None and getattr(base, "target_transform", None) is None:
        way = Transformed(base.transform, name)
        if way.identity is not None:
            labels = label_tensor(read_labels(base, name), len(base), f"{name} labels")
            origin = _folder(base, labels, paths) if isinstance(source, Files) else _in_memory(base, labels)
            images = EncodedImages(source, labels, preprocessing=way, origin=origin)
            return Adopted(images, None, None, names, images.picture, paths)
    return Adopted(base, None, None, names, _Bare(base) if source is None else _Shown(source), paths)


def load_in_memory(name: str, root: Path, part: Any, preprocessing: Any) -> EncodedImages:
    """Read one of ``IN_MEMORY`` from the disk; nothing is downloaded.

    Args:
        name: of the class.
        root: its folder.
        part: value of the argument that says which part.
        preprocessing: what is done to the pictures.

    Returns:
        The pictures, with torchvision's labels.

    Raises:
        InvalidInput: if it is not there, or damaged.
    """
    if name not in IN_MEMORY:
        raise InvalidInput(f"there is no dataset {name!r} of torchvision here; possible are {', '.join(IN_MEMORY)}")
    torchvision()
    from torchvision import datasets

    try:
        base = getattr(datasets, name)(str(root), **{IN_MEMORY[name]: part}, download=False)
    except Exception as error:  # whatever torchvision trips over in a damaged file
        raise InvalidInput(
            f"{root} does not hold torchvision's {name} ({IN_MEMORY[name]}={part!r}), or a damaged one "
            f"({(str(error).splitlines() or [type(error).__name__])[0]}): put it back, or download it again"
        ) from error
    labels = label_tensor(read_labels(base, name), len(base), f"{name} labels")
    source = _source(base)
    assert source is not None
    return EncodedImages(source, labels, preprocessing=preprocessing, origin=_in_memory(base, labels))


def class_names_of(name: str) -> list[str] | None:
    """What torchvision calls the classes of one of ``IN_MEMORY``, where the class itself says."""
    torchvision()
    from torchvision import datasets

    names = getattr(getattr(datasets, name), "classes", None)
    return [str(c) for c in names] if isinstance(names, (list, tuple)) else None


def _source(base: Any) -> Files | Pixels | None:
    """The pictures of a dataset before its transform, if they are files that it opens as we do, or pixels in memory."""
    kind = type(base).__name__
    if kind in _FOLDERS:
        from torchvision.datasets.folder import default_loader

        if base.loader is not default_loader:
            return None
        root = Path(base.root)
        return Files(root, [_relative(Path(file), root) for file, _ in base.samples])
    data = getattr(base, "data", None)
    if kind not in IN_MEMORY or data is None:
        return None
    arrays = data.numpy() if isinstance(data, torch.Tensor) else np.asarray(data)
    if arrays.dtype != np.uint8 or arrays.ndim not in (3, 4):
        return None
    return Pixels(arrays.transpose(0, 2, 3, 1) if kind in ("SVHN", "STL10") else arrays)


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file.absolute())


def _folder(base: Any, labels: torch.Tensor, paths: Sequence[str] | None) -> Origin:
    return Origin("folder", Path(base.root), {}, labels, filepaths=paths)


def _in_memory(base: Any, labels: torch.Tensor) -> Origin:
    name = type(base).__name__
    return Origin("torchvision", Path(base.root), {"name": name, "part": getattr(base, IN_MEMORY[name])}, labels)


class _Bare:
    """Pictures of a dataset without its transform."""

    def __init__(self, base: Any) -> None:
        self.base = copy.copy(base)
        for attribute in ("transform", "transforms", "target_transform"):
            setattr(self.base, attribute, None)

    def __call__(self, index: int) -> Any:
        found = self.base[index][0]
        if hasattr(found, "convert") or isinstance(found, np.ndarray):
            return found
        return _tensor_as_picture(found)


def _tensor_as_picture(found: Any) -> Any:
    from influence_core.errors import NotSupported

    if isinstance(found, torch.Tensor) and found.dtype == torch.uint8 and found.ndim == 3 and len(found) in (1, 3):
        array = found.permute(1, 2, 0).numpy()
        return array[..., 0] if array.shape[-1] == 1 else array
    raise NotSupported(f"a {type(found).__name__} is no picture: pass pictures=function(index) to LabelledDataset")


class _Shown:
    """Pictures of a source, upright."""

    def __init__(self, source: Files | Pixels) -> None:
        self.source = source

    def __call__(self, index: int) -> Any:
        return self.source.image(index, upright=True)


class _Picked:
    """Pictures of some samples."""

    def __init__(self, source: Callable[[int], Any], ids: list[int]) -> None:
        self.source = source
        self.ids = ids

    def __call__(self, index: int) -> Any:
        return self.source(self.ids[index])
