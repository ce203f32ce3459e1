"""Encoded pictures as inputs of a model: decoded when asked for, kept while memory allows, known by their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from influence_core.data.cache import PixelCache
from influence_core.data.preprocessing import Preprocessing, Scaling
from influence_core.data.shareable import Shareable, stack_inputs
from influence_core.data.sources import Source, as_source
from influence_core.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a dataset can be read again from, in the words of a study file.

    Attributes:
        format: "folder", "table" or "torchvision".
        path: of the folder or file.
        facts: the other keys of the study file, preprocessing apart.
        sha256: of the table, when it was read.
        class_names: what its labels are called, where its labels are names.
        labels: of the file, int64 [N].
        true_labels: of the file, or ``None``.
        filepaths: one per sample.
        sample_ids: one per sample, or ``None``.
    """

    format: str
    path: Path
    facts: dict[str, Any]
    labels: Tensor
    true_labels: Tensor | None = None
    sha256: str | None = None
    class_names: list[str] | None = None
    filepaths: Sequence[str] | None = None
    sample_ids: Sequence[str] | None = None


class EncodedImages(Shareable, Dataset[tuple[Tensor, int]]):
    """Encoded pictures (bytes or files), decoded when asked for and made inputs as the model expects them.

    Several threads may read at once. Inputs are the pixels as Pillow gives them, and torchvision too; ``picture`` is
    turned as the camera noted in the file (EXIF), which Pillow does for TIFF alone. Decoded pixels are kept up to the
    budget of ``ic.data.set_cache``, if the transform is one that can be named (another one may be random).

    Args:
        sources: the bytes of a picture file, or its path, for each sample; or a ``Source`` of them.
        labels: [N].
        size: (height, width) to resize to, or ``None`` to keep each picture's own.
        mean: subtracted from each channel after scaling to 0..1; its length (1 or 3) decides grey or colour.
        std: each channel is divided by it.
        preprocessing: instead of ``size``, ``mean`` and ``std``.
        origin: where it can be read again from.
    """

    def __init__(
        self,
        sources: Source | Sequence[bytes | Path],
        labels: Tensor,
        size: tuple[int, int] | None = None,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        *,
        preprocessing: Preprocessing | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.source = as_source(sources)
        self.labels = labels
        self.preprocessing = Scaling(size, mean, std) if preprocessing is None else preprocessing
        self.origin = origin
        self._cache = PixelCache(len(self.source)) if self.preprocessing.identity is not None else None

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Input [C, H, W] and label."""
        index = range(len(self))[index]
        return self.inputs(torch.tensor([index]))[0], int(self.labels[index])

    def inputs(self, ids: Tensor) -> Tensor:
        """Inputs of some pictures, [B, C, H, W]."""
        listed = ids.tolist()
        if self._cache is not None:
            pixels = self._cache.gather(listed, self._pixels)
        else:
            pixels = stack_inputs([self._pixels(i) for i in listed], listed, "image")
        return self.preprocessing.finish(pixels)

    def picture(self, index: int) -> Image.Image:
        """The picture as a person sees it: upright, at its own size, whatever the transform does.

        Args:
            index: sample id.

        Returns:
            A picture in mode "L" or "RGB".
        """
        return self.source.image(index, upright=True)

    def sha256(self, index: int) -> str:
        """SHA-256 of the picture's file, as ``sha256sum`` gives it."""
        return self.source.sha256(index).hex()

    def content_sha256(self, labels: Tensor, ids: Iterable[int]) -> str | None:
        """SHA-256 of what decides all inputs, without decoding them: the files, and what is done to the pictures.

        Args:
            labels: int64 [n].
            ids: which pictures, [n].

        Returns:
            64 hexadecimal digits; ``None`` if nobody can say what is done to the pictures.
        """
        identity = self.preprocessing.identity
        if identity is None:
            return None
        digest = hashlib.sha256(f"encoded pictures 1|{len(labels)}|{identity}|".encode())
        digest.update(labels.to(torch.int64).contiguous().numpy().tobytes())
        for index in ids:
            digest.update(self.source.sha256(index))
        return digest.hexdigest()

    def _pixels(self, index: int) -> Tensor:
        image = self.source.image(index)
        if image.mode != "RGB" and not self.source.as_stored and not isinstance(self.preprocessing, Scaling):
            image = image.convert("RGB")  # what ImageFolder would give the transform
        pixels = self.preprocessing.pixels(image)
        if not isinstance(pixels, Tensor):
            kind = "picture" if isinstance(pixels, Image.Image) else type(pixels).__name__
            raise InvalidInput(
                f"the transform gives a {kind} for image {index}, a tensor is needed: end it with "
                "torchvision.transforms.v2.ToImage() and ToDtype(torch.float32, scale=True)"
            )
        return pixels
