"""Transforms of torchvision as plain facts: what a study file can say of one, and how it is built again.

A transform is written as a list of steps, each a name and its arguments. Only the classes below are known, each by
exactly these arguments; nothing else is ever built from a file. Random transforms are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from influence_core._torchvision import torchvision
from influence_core.errors import InvalidInput

Step = dict[str, Any]
"""``{"name": "v2.Resize", "size": [32, 32], ...}``; an argument that is ``None`` is left out."""

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "v2.Resize": ("size", "interpolation", "max_size", "antialias"),
    "v2.CenterCrop": ("size",),
    "v2.Pad": ("padding", "fill", "padding_mode"),
    "v2.Grayscale": ("num_output_channels",),
    "v2.RGB": (),
    "v2.Identity": (),
    "v2.ToImage": (),
    "v2.PILToTensor": (),
    "v2.ToPureTensor": (),
    "v2.ToDtype": ("dtype", "scale"),
    "v2.ConvertImageDtype": ("dtype",),
    "v2.Normalize": ("mean", "std", "inplace"),
    "v1.Resize": ("size", "interpolation", "max_size", "antialias"),
    "v1.CenterCrop": ("size",),
    "v1.Pad": ("padding", "fill", "padding_mode"),
    "v1.Grayscale": ("num_output_channels",),
    "v1.PILToTensor": (),
    "v1.ToTensor": (),
    "v1.ConvertImageDtype": ("dtype",),
    "v1.Normalize": ("mean", "std", "inplace"),
    "preset.ImageClassification": ("crop_size", "resize_size", "mean", "std", "interpolation", "antialias"),
}
"""The transforms that a study file can name, and the arguments that say all of one."""

_RANDOM = {
    "AugMix", "AutoAugment", "ColorJitter", "CutMix", "ElasticTransform", "GaussianBlur", "GaussianNoise", "JPEG",
    "MixUp", "RandAugment", "ScaleJitter", "TrivialAugmentWide",
}  # fmt: skip
_LARGEST = 1 << 14


def classes() -> dict[str, type]:
    """The class behind each name of ``ARGUMENTS``."""
    torchvision()
    from torchvision.transforms import transforms as v1
    from torchvision.transforms import v2
    from torchvision.transforms._presets import ImageClassification

    homes: dict[str, Any] = {"v1": v1, "v2": v2}
    found = {n: getattr(homes[n[:2]], n[3:]) for n in ARGUMENTS if n[:2] in homes}
    return found | {"preset.ImageClassification": ImageClassification}


def flat(transform: Any) -> list[Any]:
    """The single steps of a transform, those of nested ``Compose`` and ``Sequential`` too, in order."""
    if isinstance(transform, nn.Sequential):
        return [step for part in transform for step in flat(part)]
    if type(transform).__name__ == "Compose" and _of_torchvision(transform):
        return [step for part in transform.transforms for step in flat(part)]
    return [transform]


def facts_of(transform: Any) -> list[Step] | None:
    """A transform as plain facts.

    Args:
        transform: of torchvision, version 1 or 2, a ``Compose`` of such, or a preset of ``weights.transforms()``.

    Returns:
        Its steps; ``None`` if one of them is none of ``ARGUMENTS`` or has an argument that is not plain.
    """
    known = {kind: name for name, kind in classes().items()}
    steps: list[Step] = []
    for step in flat(transform):
        name = known.get(type(step))
        if name is None and type(step).__name__ == "ToTensor" and _of_torchvision(step):
            name = "v1.ToTensor"  # version 2 keeps it as a deprecated name of the same
        if name is None:
            return None
        try:
            arguments = {key: _plain(getattr(step, key)) for key in ARGUMENTS[name]}
        except TypeError:
            return None
        steps.append({"name": name, **{key: value for key, value in arguments.items() if value is not None}})
    try:
        build_transform(steps)
    except InvalidInput:  # arguments that no file may ask for
        return None
    return steps


def build_transform(steps: Sequence[Mapping[str, Any]]) -> list[Callable[[Any], Any]]:
    """The steps that ``facts_of`` described, built again.

    Args:
        steps: as in a study file.

    Returns:
        One callable a step, to be called in order.

    Raises:
        InvalidInput: if a name or an argument is none of ``ARGUMENTS``.
    """
    kinds = classes()
    built: list[Callable[[Any], Any]] = []
    for step in steps:
        name = step.get("name")
        if not isinstance(name, str) or name not in ARGUMENTS:
            raise InvalidInput(f"there is no transform {name!r}; possible are {', '.join(ARGUMENTS)}")
        extra = sorted(set(step) - {"name", *ARGUMENTS[name]})
        if extra:
            raise InvalidInput(f"{name} has no argument {extra[0]!r}; it has {', '.join(ARGUMENTS[name]) or 'none'}")
        try:
            built.append(kinds[name](**{key: _argument(key, step.get(key)) for key in ARGUMENTS[name]}))
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise InvalidInput(f"{name} does not take the arguments {dict(step)}: {error}") from error
    return built


def refuse_random(transform: Any, name: str) -> None:
    """Refuse a transform that draws at random.

    Args:
        transform: any callable, or ``None``.
        name: what messages call the dataset.

    Raises:
        InvalidInput: naming the random step.
    """
    waiting, seen = [transform], set()
    while waiting:
        step = waiting.pop(0)
        if step is None or id(step) in seen:
            continue
        seen.add(id(step))
        kind = type(step).__name__
        if _of_torchvision(step) and (kind in _RANDOM or kind.startswith("Random")):
            raise InvalidInput(
                f"the transform of the {name} set has the random step {kind}, and no result could be repeated: give "
                "it the transform of evaluation (Resize, CenterCrop, ToImage, ToDtype, Normalize); "
                "ic.training.fit(..., augment=...) augments while training"
            )
        if isinstance(step, (list, tuple)):
            waiting += step
        elif isinstance(step, nn.Sequential):
            waiting += list(step)
        elif _of_torchvision(step):
            waiting += [getattr(step, inner, None) for inner in ("transforms", "transform")]


def _of_torchvision(value: Any) -> bool:
    return type(value).__module__.split(".")[0] == "torchvision"


def _plain(value: Any) -> Any:
    """An argument as TOML can hold it, exactly."""
    if value is None or isinstance(value, (bool, str)):
        return getattr(value, "value", value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value)
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, (Tensor, np.ndarray)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    inner = getattr(value, "value", None)  # of an enum, InterpolationMode
    if isinstance(inner, str):
        return inner
    raise TypeError


def _argument(key: str, value: Any) -> Any:
    """What ``_plain`` made plain, as the class takes it."""
    if key == "dtype":
        dtype = getattr(torch, value, None) if isinstance(value, str) else None
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"dtype is {value!r}, expected the name of one, such as 'float32'")
        return dtype
    if key == "interpolation":
        from torchvision.transforms import InterpolationMode

        return InterpolationMode(value)
    if key in ("size", "crop_size", "resize_size", "max_size", "padding") and value is not None:
        listed = value if isinstance(value, list) else [value]
        if not listed or any(type(v) is not int or not 0 <= v <= _LARGEST for v in listed):
            raise ValueError(f"{key} is {value!r}, expected pixels, at most {_LARGEST:,}")
        return value[0] if key in ("crop_size", "resize_size") and listed is value else value  # which it puts in a list
    if isinstance(value, list) and not all(isinstance(v, (int, float)) for v in value):
        raise ValueError(f"{key} is {value!r}, expected numbers")
    return value
