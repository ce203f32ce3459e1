"""Hyper-parameters are what their fields say: numbers where numbers belong, and no NaN."""

from __future__ import annotations

import math
from dataclasses import fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from influence_core.errors import InvalidInput

_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string", NoneType: "None"}


def check_types(estimator: Any) -> None:
    """Refuse a hyper-parameter of another type than its field has, so that the refusal names it.

    Fields whose types are no numbers, strings, truth values or literals are let through, and so are literals of the
    right type: which of them there are is for the estimator to say.

    Args:
        estimator: a dataclass.

    Raises:
        InvalidInput: naming the field, what was given, and what is expected.
    """
    try:
        hints = get_type_hints(type(estimator))
    except (NameError, TypeError):  # names that only exist inside a function, or for a type checker
        return
    for field in fields(estimator):
        kinds = _kinds(hints.get(field.name, Any))
        value = getattr(estimator, field.name)
        if all(kind in _WORDS for kind in kinds) and not any(_is(value, kind) for kind in kinds):
            expected = " or ".join(dict.fromkeys(_WORDS[kind] for kind in kinds))
            raise InvalidInput(f"{field.name} is {value!r}; expected {expected}")


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


def _kinds(hint: Any) -> list[type]:
    """The types that a hint allows, those of its literals among them."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return [kind for part in get_args(hint) for kind in _kinds(part)]
    if origin is Literal:
        return list(dict.fromkeys(type(value) for value in get_args(hint)))
    return [hint]


def _is(value: Any, kind: type) -> bool:
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    return isinstance(value, kind)
