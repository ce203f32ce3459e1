"""How a model of torchvision or timm was built, found out from the model itself.

Nothing is guessed: a candidate is built without weights and has to be the same, class by class and shape by shape.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from influence_core._torchvision import torchvision
from influence_core.errors import InvalidInput
from influence_core.models.architectures import Architecture, made, structure_of
from influence_core.models.skeletons import shapes, skeleton

_KEPT = (
    "image_size", "representation_size", "attention_dropout", "aux_logits", "transform_input", "memory_efficient",
    "drop_rate",
)  # fmt: skip
"""Arguments of torchvision's classes that a part of the model keeps under the same name."""


def recognised(model: nn.Module) -> Architecture | None:
    """What to build to get a model like this one.

    Args:
        model: any module; it is only read. Its last layer may be another than the one it was built with.

    Returns:
        Name and arguments, verified; ``None`` for what is neither torchvision's nor timm's, or was changed otherwise.
    """
    package = type(model).__module__.partition(".")[0]
    candidates = {"torchvision": _of_torchvision, "timm": _of_timm}.get(package)
    if candidates is None:
        return None
    return next((found for found in candidates(model) if is_built_by(model, found)), None)


def is_built_by(model: nn.Module, architecture: Architecture) -> bool:
    """Whether an architecture gives a model that is the same but for its weights.

    Args:
        model: any module; it is only read.
        architecture: is built without weights.

    Returns:
        Whether classes, code, arguments, and the names and shapes of all weights are the same. What cannot be built is
        not.
    """
    try:
        with skeleton():
            built = made(architecture)
    except InvalidInput:
        return False
    except Exception:  # whatever a constructor of others makes of weights without numbers
        return False
    return shapes(built) == shapes(model) and _structure(built) == _structure(model)


def _structure(model: nn.Module) -> str:
    return structure_of(model).sha256


def _of_torchvision(model: nn.Module) -> Iterator[Architecture]:
    models = torchvision().models
    home = type(model).__module__
    names = [n for n in models.list_models(module=models) if models.get_model_builder(n).__module__ == home]
    parameters = inspect.signature(type(model).__init__).parameters
    plain: dict[str, Any] = {"num_classes": classes} if (classes := last_width(model)) else {}
    if "init_weights" in parameters and parameters["init_weights"].default is None:
        plain["init_weights"] = True  # what they do by default, without the warning about it
    more = {name: value for name in _KEPT if (value := _held(model, name)) is not None and name in parameters}
    more |= {name: value for name, value in _drops(model).items() if name in parameters}
    more = {name: value for name, value in more.items() if value != parameters[name].default}
    for arguments in (plain, plain | more) if more else (plain,):
        yield from (Architecture(f"torchvision:{name}", arguments) for name in names)


def _of_timm(model: nn.Module) -> Iterator[Architecture]:
    found = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    name = found.get("architecture")
    if not isinstance(name, str):
        return
    plain: dict[str, Any] = {} if (classes := last_width(model)) is None else {"num_classes": classes}
    kept = getattr(model, "num_classes", None)
    if isinstance(kept, int):
        plain["num_classes"] = kept
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    channels = {} if first is None else {"in_chans": first.in_channels}
    drops = {"drop_rate": drop} if (drop := _held(model, "drop_rate")) else {}
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    sizes = {"img_size": list(size)} if isinstance(size, tuple) else {}
    for more in ({}, channels, drops, sizes, channels | drops, channels | sizes, channels | drops | sizes):
        yield Architecture(f"timm:{name}", plain | more)


def last_width(model: nn.Module) -> int | None:
    """Number of outputs of the last linear layer or convolution of a model; ``None`` if there is none."""
    for module in reversed(list(model.modules())):
        if isinstance(module, nn.Linear):
            return module.out_features
        if isinstance(module, nn.Conv2d):
            return module.out_channels
    return None


def _held(model: nn.Module, name: str) -> Any:
    """The plain value that the model, or the first of its parts that has one, keeps under a name."""
    values = (vars(module).get(name) for module in model.modules())
    return next((value for value in values if isinstance(value, (bool, int, float, str))), None)


def _drops(model: nn.Module) -> dict[str, Any]:
    """Shares that are dropped, by the names of torchvision's arguments: what the last layer of each kind has."""
    found: dict[str, Any] = {}
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            found["dropout"] = module.p
        elif type(module).__name__ == "StochasticDepth":
            found["stochastic_depth_prob"] = module.p
    return found
