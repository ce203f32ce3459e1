"""Names of estimators that are all different: one may come twice, with other hyper-parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

_LONGEST = 40  # characters of parameters in a name


def distinct(named: Sequence[tuple[str, Mapping[str, Any]]], taken: Collection[str] = ()) -> tuple[str, ...]:
    """Names that are all different: by the hyper-parameters that differ, else by a number.

    Args:
        named: name and hyper-parameters of each.
        taken: names that none may get.

    Returns:
        One name each.
    """
    used = set(taken)
    names = []
    for bare, own in named:
        name = base = bare + _parameters(own, [other for called, other in named if called == bare])
        number = 2
        while name in used:
            name, number = f"{base} ({number})", number + 1
        used.add(name)
        names.append(name)
    return tuple(names)


def _parameters(own: Mapping[str, Any], same: Sequence[Mapping[str, Any]]) -> str:
    """The hyper-parameters in which those of one estimator differ."""
    told = [f"{key}={value}" for key, value in own.items() if any(other.get(key, value) != value for other in same)]
    text = f" ({', '.join(told)})" if told else ""
    return text if len(text) <= _LONGEST else ""
