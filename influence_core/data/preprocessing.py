"""From a decoded picture to the model's input, in two halves: pixels of one picture, then arithmetic on many.

The first half gives what is worth keeping (mostly ``uint8``); the second works element by element, so that it gives the
same bits for one picture and for a batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from influence_core.data.transforms import Step, build_transform, facts_of, refuse_random
from influence_core.errors import InvalidInput

_ELEMENTWISE = {
    "v1.ConvertImageDtype", "v1.Normalize", "v2.ConvertImageDtype", "v2.Identity", "v2.Normalize", "v2.ToDtype",
    "v2.ToPureTensor",
}  # fmt: skip


class Preprocessing:
    """What is done to a picture before the model sees it.

    Attributes:
        facts: the keys of a study file that say it; ``None`` if it cannot be said in plain facts.
    """

    facts: dict[str, Any] | None = None

    @property
    def identity(self) -> str | None:
        """Text that is equal for equal preprocessing; ``None`` if it cannot be said."""
        return None if self.facts is None else json.dumps(self.facts, sort_keys=True)

    def pixels(self, image: Image.Image) -> Any:
        """The first half, of one picture in mode L or RGB: a tensor [C, H, W]."""
        raise NotImplementedError

    def finish(self, pixels: Tensor) -> Tensor:
        """The second half, of pixels [B, C, H, W] that nobody else has: inputs [B, C, H, W]."""
        raise NotImplementedError


class Scaling(Preprocessing):
    """Resize, scale to 0..1 and normalise.

    Args:
        size: (height, width) to resize to, or ``None`` to keep each picture's own.
        mean: of each channel; its length (1 or 3) decides grey or colour.
        std: of each channel.
    """

    def __init__(self, size: tuple[int, int] | None, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != len(std) or len(mean) not in (1, 3) or min(std) <= 0:
            raise InvalidInput(
                f"mean={list(mean)} and std={list(std)}: give one value each for grey pictures or three for colour, "
                "and no std of 0"
            )
        if size is not None and min(size) < 1:
            raise InvalidInput(f"size={tuple(size)}: the height and width to resize to are in pixels, so 1 or more")
        self.size = None if size is None else (int(size[0]), int(size[1]))
        self.mean = torch.tensor([float(m) for m in mean]).view(-1, 1, 1)
        self.std = torch.tensor([float(s) for s in std]).view(-1, 1, 1)
        resized = {} if self.size is None else {"size": list(self.size)}
        self.facts = {**resized, "mean": [float(m) for m in mean], "std": [float(s) for s in std]}

    def pixels(self, image: Image.Image) -> Tensor:
        """``uint8`` [1 or 3, H, W], resized."""
        wanted = "L" if self.mean.numel() == 1 else "RGB"
        image = image if image.mode == wanted else image.convert(wanted)
        if self.size is not None and image.size != self.size[::-1]:
            image = image.resize(self.size[::-1], Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image))
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)

    def finish(self, pixels: Tensor) -> Tensor:
        """Normalised, float32."""
        inputs = pixels.to(torch.float32, copy=True)  # and then in place: new memory for each step takes longer
        return inputs.div_(255.0).sub_(self.mean).div_(self.std)


class Transformed(Preprocessing):
    """A transform of torchvision, or any function from a picture to a tensor.

    Args:
        transform: called with a PIL picture. ``Compose`` is followed step by step.
        name: what messages call the dataset.

    Raises:
        InvalidInput: if it is no function, or random.
    """

    def __init__(self, transform: Any, name: str = "images") -> None:
        if not callable(transform):
            raise InvalidInput(f"transform is a {type(transform).__name__}, expected a function of a PIL picture")
        refuse_random(transform, name)
        steps = facts_of(transform)
        self.facts = None if steps is None else {"transform": steps}
        self._first: list[Callable[[Any], Any]] = [transform]
        self._second: list[Callable[[Any], Any]] = []
        if steps is not None:
            self._first, self._second = _halves(steps)

    def pixels(self, image: Image.Image) -> Any:
        """What is left after the last step that is not arithmetic on single elements."""
        found: Any = image
        for step in self._first:
            found = step(found)
        return found.as_subclass(Tensor) if isinstance(found, Tensor) else found

    def finish(self, pixels: Tensor) -> Tensor:
        """The steps that are arithmetic on single elements."""
        for step in self._second:
            pixels = step(pixels)
        return pixels.as_subclass(Tensor)


def preprocessing(
    transform: Any,
    size: tuple[int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    name: str = "images",
) -> Preprocessing:
    """One of the two ways to say what is done to a picture.

    Args:
        transform: a function from a picture to a tensor, or the steps of a study file; or ``None``.
        size: (height, width) to resize to.
        mean: of each channel; by default three zeros.
        std: of each channel; by default three ones.
        name: what messages call the dataset.

    Returns:
        The preprocessing.

    Raises:
        InvalidInput: if both ways are used at once, or one is wrong.
    """
    if transform is None:
        return Scaling(size, (0.0, 0.0, 0.0) if mean is None else mean, (1.0, 1.0, 1.0) if std is None else std)
    if size is not None or mean is not None or std is not None:
        raise InvalidInput(
            "give transform alone, or size, mean and std: a transform resizes and normalises itself, with "
            "torchvision.transforms.v2.Resize and Normalize"
        )
    if isinstance(transform, list) and all(isinstance(step, dict) for step in transform):
        from torchvision.transforms import v2

        transform = v2.Compose(build_transform(transform))
    return Transformed(transform, name)


def _halves(steps: list[Step]) -> tuple[list[Callable[[Any], Any]], list[Callable[[Any], Any]]]:
    """The steps up to the last that is not elementwise, and those after it."""
    split: list[Step] = []
    for step in steps:
        split += _parts(step)
    after = len(split)
    while after and (split[after - 1]["name"] in _ELEMENTWISE or split[after - 1]["name"] == "scale"):
        after -= 1
    first, second = split[:after], split[after:]
    return _built(first), _built(second)


def _parts(step: Step) -> list[Step]:
    """A step that does both, as steps that do one."""
    if step["name"] == "v1.ToTensor":
        return [{"name": "v1.PILToTensor"}, {"name": "scale"}]
    if step["name"] != "preset.ImageClassification":
        return [step]
    resize = {"name": "v1.Resize", "size": step["resize_size"], "interpolation": step["interpolation"]}
    return [
        resize | ({"antialias": step["antialias"]} if "antialias" in step else {}),
        {"name": "v1.CenterCrop", "size": step["crop_size"]},
        {"name": "v1.PILToTensor"},
        {"name": "v1.ConvertImageDtype", "dtype": "float32"},
        {"name": "v1.Normalize", "mean": step["mean"], "std": step["std"], "inplace": False},
    ]


def _built(steps: list[Step]) -> list[Callable[[Any], Any]]:
    return [_scale if step["name"] == "scale" else build_transform([step])[0] for step in steps]


def _scale(pixels: Tensor) -> Tensor:
    """The second half of ``ToTensor``."""
    return pixels.to(torch.get_default_dtype()).div(255) if pixels.dtype == torch.uint8 else pixels
