"""Real image files as datasets: folders with one sub-folder per class, and Parquet files with encoded images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from influence_core.data.dataset import LabelledDataset, Shareable, stack_inputs
from influence_core.errors import InvalidInput

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class EncodedImages(Shareable, Dataset[tuple[Tensor, int]]):
    """Encoded pictures (bytes or files), decoded when asked for and normalised as the model expects.

    Each read opens its file anew, so several threads may read at once. Inputs are the pixels as Pillow gives them, and
    torchvision too; ``picture`` is turned as the camera noted in the file (EXIF), which Pillow does for TIFF alone.

    Args:
        sources: the bytes of a picture file, or its path, for each sample.
        labels: [N].
        size: (height, width) to resize to, or ``None`` to keep each picture's own.
        mean: subtracted from each channel after scaling to 0..1; its length (1 or 3) decides grey or colour.
        std: each channel is divided by it.
    """

    def __init__(
        self,
        sources: Sequence[bytes | Path],
        labels: Tensor,
        size: tuple[int, int] | None,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        if len(mean) != len(std) or len(mean) not in (1, 3) or min(std) <= 0:
            raise InvalidInput(
                f"mean={list(mean)} and std={list(std)}: give one value each for grey pictures or three for colour, "
                "and no std of 0"
            )
        if size is not None and min(size) < 1:
            raise InvalidInput(f"size={tuple(size)}: the height and width to resize to are in pixels, so 1 or more")
        self.sources = sources
        self.labels = labels
        self.size = size
        self.mean = torch.tensor(list(mean)).view(-1, 1, 1)
        self.std = torch.tensor(list(std)).view(-1, 1, 1)

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.sources)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Normalised input [C, H, W] and label."""
        image = self._decoded(index).convert("L" if self.mean.numel() == 1 else "RGB")
        if self.size is not None and image.size != self.size[::-1]:
            image = image.resize(self.size[::-1], Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image, dtype=np.float32) / 255.0)
        channels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        return (channels - self.mean) / self.std, int(self.labels[index])

    def inputs(self, ids: Tensor) -> Tensor:
        """Normalised inputs of some pictures, [B, C, H, W]."""
        listed = ids.tolist()
        return stack_inputs([self[i][0] for i in listed], listed, "image")

    def picture(self, index: int) -> Image.Image:
        """The picture as a person sees it: upright, at its own size.

        Args:
            index: sample id.

        Returns:
            A picture in mode "L" or "RGB".
        """
        return self._decoded(index, upright=True)

    def _decoded(self, index: int, upright: bool = False) -> Image.Image:
        source = self.sources[index]
        what = f"image {index}" if isinstance(source, bytes) else str(source)
        if isinstance(source, Path):
            _check_plain(source)
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                _check_pixels(image)
                image.load()
                if upright:
                    _turn_upright(image)
                if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would cut off at 255
                    return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
                return image.convert("L" if image.mode in ("1", "L") else "RGB")
        except (*_UNREADABLE, Image.DecompressionBombWarning) as error:  # the warning where warnings are errors
            raise InvalidInput(f"{what} cannot be read as a picture ({error}). Remove or replace it.") from error


def _check_plain(file: Path) -> None:
    """Refuse a folder, a pipe and a device: opening a pipe waits for ever, and a device may never end."""
    if not file.is_file() and file.exists():
        raise InvalidInput(f"{file} has the name of a picture but is no plain file. Remove or rename it.")


def _check_pixels(image: Image.Image) -> None:
    """Refuse a small file that would fill the memory, before it is decoded; Pillow only warns up to twice its limit."""
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and image.width * image.height > most:
        raise Image.DecompressionBombError(
            f"it has {image.width:,} x {image.height:,} pixels, more than the {most:,} of PIL.Image.MAX_IMAGE_PIXELS"
        )


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # damaged notes of a camera say nothing, and the pixels are there already
        return


def image_folder(
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    class_names: Sequence[str] | None = None,
    name: str = "images",
) -> LabelledDataset:
    """Read ``path/CLASS/picture.png``: the folder a picture lies in is its given label.

    Args:
        path: folder with one sub-folder per class.
        size: (height, width) to resize to; needed unless all pictures have one size.
        mean: of each channel, as the model was trained with; one value for grey, three for colour.
        std: of each channel.
        class_names: the classes in the order of the model's outputs; by default the sub-folders, sorted.
        name: what messages call it.

    Returns:
        The dataset; true labels are unknown.

    Raises:
        InvalidInput: if there is no such folder, no picture, a sub-folder that is no class, or a pipe as a picture.
    """
    root = Path(path)
    folders = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != ".") if root.is_dir() else []
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
        _check_plain(file)
    labels = torch.tensor([label for _, label in files])
    images = EncodedImages([file for file, _ in files], labels, size, mean, std)
    return LabelledDataset(
        images,
        class_names=classes,
        pictures=images.picture,
        filepaths=[str(file.relative_to(root)) for file, _ in files],
        name=name,
    )


def parquet_images(
    path: str | Path,
    *,
    image: str = "image",
    label: str = "label",
    true_label: str | None = None,
    class_names: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    name: str = "images",
) -> LabelledDataset:
    """Read a Parquet file with one row per picture.

    Args:
        path: the file.
        image: column with the bytes of a picture file (or Hugging Face's struct with a ``bytes`` field).
        label: column with the given label, an integer.
        true_label: column with the label known to be right, where there is one.
        class_names: names in the order of the labels.
        size: (height, width) to resize to; needed unless all pictures have one size.
        mean: of each channel; one value for grey, three for colour.
        std: of each channel.
        name: what messages call it.

    Returns:
        The dataset.

    Raises:
        InvalidInput: if the file or a column is missing or of another kind.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}")
    wanted = [image, label] + ([true_label] if true_label else [])
    try:
        have = pq.read_schema(path).names
        missing = [column for column in wanted if column not in have]
        if missing:
            raise InvalidInput(f"{path} has no column {missing[0]!r}; its columns are {', '.join(have)}")
        table = pq.read_table(path, columns=wanted)
    except pa.ArrowInvalid as error:
        raise InvalidInput(f"{path} is no complete Parquet file ({str(error).splitlines()[0]})") from error
    rows: list[Any] = table[image].to_pylist()
    sources = [row["bytes"] if isinstance(row, dict) else row for row in rows]
    for row, source in enumerate(sources):
        if not isinstance(source, bytes):
            raise InvalidInput(
                f"column {image!r} of {path} has {type(source).__name__} in row {row} (its type is "
                f"{table[image].type}); the bytes of picture files are needed"
            )
    labels = _integers(table[label], label, path)
    images = EncodedImages(sources, labels, size, mean, std)
    return LabelledDataset(
        images,
        true_labels=None if true_label is None else _integers(table[true_label], true_label, path),
        class_names=class_names,
        pictures=images.picture,
        name=name,
    )


def _integers(column: Any, name: str, path: Path) -> Tensor:
    import pyarrow as pa

    if not pa.types.is_integer(column.type) or column.null_count:
        raise InvalidInput(
            f"column {name!r} of {path} is {column.type} with {column.null_count} empty cells, expected an integer in "
            "every row"
        )
    return torch.from_numpy(column.to_numpy().astype(np.int64))
