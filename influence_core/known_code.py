"""Which code is known by its name, and what the rest of it depends on."""

from __future__ import annotations

import dis
import functools
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

_BY_NAME = {"torch", "torchvision", "numpy", "influence_core"} | set(sys.stdlib_module_names)
"""Packages whose parts are what their names say; those of other installed packages are, in one version of it."""

_ABSENT = object()

BEFORE_REGISTRATION = "__before_registration__"
"""Attribute of a function that ``ic.models.register`` put in place of another one: that one, or ``None``."""


def as_written(value: Any) -> Any:
    """What stood where ``ic.models.register`` put a function that notes how it is called; anything else is itself."""
    while isinstance(value, types.FunctionType) and BEFORE_REGISTRATION in vars(value):
        value = vars(value)[BEFORE_REGISTRATION]
    return value


def globals_used(code: types.CodeType, namespace: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each global that some code reads; of a module of the user's own, what is taken from it.

    Args:
        code: of a function, with the functions inside it.
        namespace: the function's ``__globals__``.

    Yields:
        Name and value. A function or class of an installed package is a text: its name and the package's version.
    """
    steps = list(dis.get_instructions(code))
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        if step.opname not in ("LOAD_GLOBAL", "LOAD_NAME"):
            continue
        name = str(step.argval)
        value = namespace.get(name, _ABSENT)
        own_module = isinstance(value, types.ModuleType) and not of_a_package(value.__name__)
        if own_module and after is not None and after.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            name, value = f"{name}.{after.argval}", getattr(value, str(after.argval), _ABSENT)
        if isinstance(value, (type, types.FunctionType)) and of_a_package(value.__module__):
            value = f"{value.__module__}.{value.__qualname__} {version_of(value.__module__)}"
        if value is not _ABSENT:
            yield name, value
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from globals_used(inner, namespace)


def imported_inside(code: types.CodeType) -> Iterator[str]:
    """Packages, other than those known by name, that some code imports while it runs.

    Args:
        code: of a function, with the functions inside it.

    Yields:
        Their names.
    """
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME" and not known_by_name(str(step.argval)):
            yield str(step.argval)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from imported_inside(inner)


def _root(module: str | None) -> str:
    return (module or "").partition(".")[0]


def known_by_name(module: str | None) -> bool:
    """Whether the parts of a module are what their names say."""
    return _root(module) in _BY_NAME and _root(module) != "__main__"


def of_a_package(module: str | None) -> bool:
    """Whether a module is part of an installed package."""
    place = getattr(sys.modules.get(_root(module)), "__file__", None) or ""
    return known_by_name(module) or "site-packages" in place or "dist-packages" in place


def version_of(module: str | None) -> str:
    """Version of an installed package; of those that count by name alone, none."""
    return "" if known_by_name(module) else str(getattr(sys.modules.get(_root(module)), "__version__", ""))


def arguments_of(cls: type, state: dict[str, Any]) -> dict[str, Any]:
    """What is left of a known module's attributes: arguments that are not the defaults, and replaced methods.

    So a later version of torch with one argument more describes the same layer alike.

    Args:
        cls: of the module.
        state: its attributes.

    Returns:
        Those that say what it computes.
    """
    defaults = _defaults(cls)
    kept = {}
    for name, value in state.items():
        if name in defaults:
            default = defaults[name]
            if type(value) is not type(default) or not isinstance(value, (bool, int, float, str)) or value != default:
                kept[name] = value
        elif callable(getattr(cls, name, None)):
            kept[name] = value
    return kept


@functools.cache
def _defaults(cls: type) -> dict[str, Any]:
    """The arguments of a known class and its bases, with their defaults; slow to find out."""
    defaults: dict[str, Any] = {}
    for base in cls.__mro__:
        try:
            parameters = inspect.signature(vars(base)["__init__"]).parameters if "__init__" in vars(base) else {}
        except (TypeError, ValueError):
            continue
        defaults |= {name: p.default for name, p in parameters.items() if name not in defaults}
    return defaults


_OF_DATACLASSES = (
    "__init__",
    "__repr__",
    "__eq__",
    "__lt__",
    "__le__",
    "__gt__",
    "__ge__",
    "__setattr__",
    "__delattr__",
)


def made_by_dataclass(name: str, value: Any) -> bool:
    """Whether the decorator wrote a method; what it does follows from the fields."""
    code = getattr(value, "__code__", None)
    return name in _OF_DATACLASSES and code is not None and code.co_filename == "<string>"
