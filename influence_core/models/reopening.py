"""How a study file can say how to build a model, so that it opens by itself."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from influence_core.errors import InvalidInput
from influence_core.models import plugins
from influence_core.models.architectures import Architecture, architecture_of, as_built, builder_of, made
from influence_core.models.recognition import is_built_by, recognised
from influence_core.models.skeletons import skeleton

Same = Callable[[nn.Module], bool]
"""Whether a model with the same weights is the same model."""


def saved_as(
    model: nn.Module, same: Same, plugin: str | Path | None = None
) -> tuple[Architecture | None, plugins.Plugin | None]:
    """How to build a model again.

    Args:
        model: any module; it is only read.
        same: is asked about a model that was built again and has the weights of ``model``.
        plugin: a file that registers or defines the architecture; it is run.

    Returns:
        Name and arguments that a study file can hold, or ``None`` if nobody but its user can build the model; and the
        plugin that the name is from, if it is from one.

    Raises:
        InvalidInput: if there is a plugin, but the model is not built by anything in it.
    """
    if plugin is not None:
        loaded = plugins.run(plugin)
        return _of_plugin(model, loaded, same), loaded
    found = None
    built = architecture_of(model)
    if built is not None and not _is_compiled(model):
        found = _written(model, built, same)
    found = found or recognised(model)
    return found, None if found is None else plugins.carried(found.name)


def _of_plugin(model: nn.Module, plugin: plugins.Plugin, same: Same) -> Architecture:
    built = architecture_of(model)
    tried = [Architecture(type(model).__name__, {})]
    if built is not None:
        tried.insert(0, Architecture(built.name.partition("@")[0], built.arguments))
    for architecture in tried:
        try:
            wanted = Architecture(plugin.named(architecture.name), architecture.arguments)
        except InvalidInput:
            continue
        found = _written(model, wanted, same, trusted=False)
        if found is not None:
            return found
    raise InvalidInput(
        f"nothing in {plugin.path} builds the model {type(model).__name__} of this study: decorate its class, or the "
        "function that makes it, there with @ic.models.register(name), import it from there, and make the model by "
        "calling it with plain arguments (numbers, texts, lists of them)"
    )


def _written(model: nn.Module, built: Architecture, same: Same, trusted: bool = True) -> Architecture | None:
    """The architecture with arguments as TOML holds them, once it is sure that they make the same model."""
    plain = _plain_arguments(built)
    if plain is None:
        return None
    found = Architecture(built.name, plain)
    as_given = trusted and repr(plain) == repr(built.arguments)
    if (as_given and as_built(model)) or is_built_by(model, found) or _same_with_weights(model, found, same):
        return found
    return None


def _same_with_weights(model: nn.Module, architecture: Architecture, same: Same) -> bool:
    """For models whose passes leave something behind on them, which says nothing of what they compute."""
    try:
        with skeleton():
            again = made(architecture)
        again.load_state_dict(model.state_dict(), assign=True)
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        for name, parameter in again.named_parameters():
            parameter.requires_grad_(name not in frozen)
        return same(again)
    except Exception:  # whatever a constructor of others makes of weights without numbers
        return False


def _plain_arguments(built: Architecture) -> dict[str, Any] | None:
    """Arguments that a study file can hold: tuples as lists, and no ``None`` where that is the default."""
    try:
        parameters: Mapping[str, inspect.Parameter] = inspect.signature(builder_of(built.name)).parameters
    except (InvalidInput, TypeError, ValueError):
        parameters = {}
    left_out = {name for name, p in parameters.items() if p.default is None}
    given = {name: value for name, value in built.arguments.items() if value is not None or name not in left_out}
    try:
        return {name: _plain(value) for name, value in given.items()}
    except TypeError:
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if type(value) in (str, bool) or (type(value) is int and -(2**63) <= value < 2**63):
        return value
    if type(value) is float and math.isfinite(value):
        return value
    raise TypeError(f"{value!r} has no place in a study file")


def _is_compiled(model: nn.Module) -> bool:
    return type(model).__module__.startswith("torch._dynamo")  # its weights have other names


def in_kind(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Give a model that was just built the precision of the weights that are to be put into it.

    Args:
        model: is changed in place.
        state: name -> tensor.

    Returns:
        ``model``.
    """
    for prefix, module in model.named_modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                wanted = state.get(f"{prefix}.{name}" if prefix else name)
                if tensor is None or wanted is None or wanted.dtype == tensor.dtype:
                    continue
                if torch.is_floating_point(tensor) and torch.is_floating_point(wanted):
                    tensor.data = tensor.data.to(wanted.dtype)
    return model
