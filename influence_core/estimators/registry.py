"""Estimators by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pandas as pd

from influence_core.errors import InvalidInput
from influence_core.estimators.base import Estimator, all_estimators

FIRST = "tracin"
"""What to open with where nobody has chosen: it explains and detects, from checkpoints alone, in seconds."""


def get(name: str, **parameters: Any) -> Estimator:
    """Make an estimator by its lower-case name.

    Args:
        name: such as "fvm"; ``available()`` lists them.
        **parameters: hyper-parameters.

    Returns:
        The estimator, not fitted.

    Raises:
        InvalidInput: if there is no such estimator or hyper-parameter.
    """
    known = {cls.name: cls for cls in all_estimators()}
    if not isinstance(name, str) or name.lower() not in known:
        raise InvalidInput(f"there is no estimator {name!r}; choose one of {', '.join(known)}")
    cls = known[name.lower()]
    allowed = [field.name for field in fields(cls)]
    for parameter in parameters:
        cls.check_former(parameter)
        if parameter not in allowed:
            raise InvalidInput(f"{cls.__name__} has no parameter {parameter!r}; it has {', '.join(allowed) or 'none'}")
    return cls(**parameters)


def available() -> pd.DataFrame:
    """What there is: name, paper, what it needs, what it gives, and its cost."""
    rows = [
        {
            "name": cls.name,
            "title": cls.title,
            "paper": cls.paper,
            "needs": ", ".join(sorted({"checkpoint"} | cls.needs)),
            "gives": ", ".join(cls.gives()),
            "cost": cls.cost,
        }
        for cls in all_estimators()
    ]
    return pd.DataFrame(rows)
