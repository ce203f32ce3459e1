"""How a builder was called: its arguments by name, taken when a registered function or class is called directly."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from influence_core.known_code import BEFORE_REGISTRATION

Note = Callable[[nn.Module, dict[str, Any]], None]
"""Called with a model that was just made, and the arguments that made it."""

_FIXED = (type(None), bool, int, float, complex, str, bytes, type, types.FunctionType, torch.dtype, torch.Size)
"""What nobody changes later; with lists, tuples and dicts of them all that a recorded call may be given."""


def recorded(builder: Any, note: Note) -> Any:
    """A builder that tells how it was called.

    A function comes back inside another one. A class stays the object that it is, with another ``__init__``, so that
    ``isinstance``, pickling, copies and subclasses go on as before; instances of a subclass are not told of. What
    ``identify`` says of either does not change.

    Args:
        builder: function, class or other callable that makes a module.
        note: is told of each call whose arguments can be written by name. Of others (positional only, a module or a
            tensor among them) it is told nothing.

    Returns:
        The builder to use from now on.
    """
    return _class(builder, note) if isinstance(builder, type) else _function(builder, note)


def _function(builder: Callable[..., Any], note: Note) -> Callable[..., Any]:
    @functools.wraps(builder)
    def made(*args: Any, **kwargs: Any) -> Any:
        arguments = called_with(builder, args, kwargs)
        model = builder(*args, **kwargs)
        if arguments is not None and isinstance(model, nn.Module):
            note(model, arguments)
        return model

    setattr(made, BEFORE_REGISTRATION, builder)
    return made


def _class(cls: Any, note: Note) -> Any:
    own = vars(cls).get("__init__")

    @functools.wraps(cls.__init__)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        initialise = super(cls, self).__init__ if own is None else functools.partial(own, self)
        arguments = called_with(initialise, args, kwargs) if type(self) is cls else None
        initialise(*args, **kwargs)
        if arguments is not None:
            note(self, arguments)

    setattr(__init__, BEFORE_REGISTRATION, own)
    cls.__init__ = __init__
    return cls


def called_with(builder: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments of a call by their names, those that were given.

    Args:
        builder: that is called.
        args: by position.
        kwargs: by name.

    Returns:
        Name -> value, lists and dicts copied; ``None`` where one has no name or may change later.
    """
    try:
        signature = inspect.signature(builder)
        bound = signature.bind(*args, **kwargs)
    except (TypeError, ValueError):  # the call itself will say it; or there is no signature
        return None
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL):
            return None
        found |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    try:
        return {name: _kept(value) for name, value in found.items()}
    except TypeError:
        return None


def _kept(value: Any) -> Any:
    if isinstance(value, _FIXED):
        return value
    if type(value) is dict:
        return {_kept(key): _kept(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_kept(inner) for inner in value)
    raise TypeError(f"a {type(value).__name__} may change later")
