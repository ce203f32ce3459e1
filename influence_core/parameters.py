"""Hyper-parameters are what their fields say: numbers where numbers belong, a choice that there is, and no NaN."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from torch import Tensor

from influence_core.errors import InvalidInput

_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string", NoneType: "None"}


def check_types(estimator: Any) -> None:
    """Refuse a hyper-parameter of another type or choice than its field has, so that the refusal names it.

    Fields whose types are no classes (``Any``, say) are let through, but for a value of the type of the field's
    literals that is none of them.

    Args:
        estimator: a dataclass.

    Raises:
        InvalidInput: naming the field, what was given, and what is expected.
    """
    hints = _hints(cast(Hashable, type(estimator)))
    if hints is None:
        return
    for field in fields(estimator):
        check_value(field.name, getattr(estimator, field.name), hints.get(field.name, Any))


@lru_cache(maxsize=256)
def _hints(cls: Any) -> dict[str, Any] | None:
    """The types of a class's fields; ``None`` where a name exists inside a function or for a type checker alone."""
    try:
        return get_type_hints(cls)
    except (NameError, TypeError):
        return None


def check_value(name: str, value: Any, hint: Any) -> None:
    """Refuse a value that its type hint does not allow.

    Args:
        name: of the parameter, for the message.
        value: that was given.
        hint: such as ``float | Literal["validation"]``.

    Raises:
        InvalidInput: naming the parameter, what was given, and what is expected.
    """
    kinds, choices = _kinds(hint)
    if any(_same(value, choice) for choice in choices):
        return
    chosen = any(type(value) is type(choice) for choice in choices) and type(value) not in kinds
    known = all(kind is not Any and isinstance(_plain_kind(kind), type) for kind in kinds)
    if chosen or (known and not any(_is(value, kind) for kind in kinds)):
        raise InvalidInput(f"{name} is {value!r}; {_expected(kinds, choices)}")


def check_numbers(estimator: Any) -> None:
    """Refuse NaN, which passes every comparison that asks for what is wrong.

    Args:
        estimator: a dataclass.

    Raises:
        InvalidInput: naming the field.
    """
    for field in fields(estimator):
        value = getattr(estimator, field.name)
        if isinstance(value, Real) and math.isnan(value):
            raise InvalidInput(f"{field.name} is {value}; expected a number")


def plain(value: Any) -> Any:
    """A hyper-parameter as JSON can hold it: what goes beside scores, and into names of results.

    Args:
        value: a number, text, a dataclass of options, masks by name, or a list or dict of these.

    Returns:
        The same in plain values; masks as how many entries they choose.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, Tensor):
        return f"{int(value.count_nonzero())} of {value.numel()}"
    return value


def _kinds(hint: Any) -> tuple[list[type], list[Any]]:
    """The types that a hint allows, and its literals."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        parts = [_kinds(part) for part in get_args(hint)]
        return [kind for kinds, _ in parts for kind in kinds], [c for _, choices in parts for c in choices]
    if origin is Literal:
        return [], list(get_args(hint))
    return [hint], []


def _is(value: Any, kind: type) -> bool:
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    return isinstance(value, _plain_kind(kind))


def _plain_kind(kind: Any) -> Any:
    """The class behind a hint: ``Mapping`` of ``Mapping[str, Tensor]``."""
    return get_origin(kind) or kind


def _same(value: Any, choice: Any) -> bool:
    return type(value) is type(choice) and bool(value == choice)


def _expected(kinds: list[type], choices: list[Any]) -> str:
    words = [repr(choice) for choice in choices] + [_WORDS.get(kind, _plain_kind(kind).__name__) for kind in kinds]
    words = list(dict.fromkeys(words))
    listed = f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
    return f"{'choose' if choices else 'expected'} {listed}"
