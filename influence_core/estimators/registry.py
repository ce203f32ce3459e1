"""Estimators by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pandas as pd

from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators.base import Estimator, all_estimators
from influence_core.estimators.cost import expected_cost
from influence_core.study import Study

BY_EVIDENCE: dict[str, tuple[str, ...]] = {
    # LDS on the digits, against retraining: 48.9, 45.7 and 43.0 %; all others are below 39 %.
    "influence": ("ekfac", "trak", "lastlayer"),
    # With clean images label contrast is level with the best control on real noise (AP 91.2 and 91.4 %, the loss 89.1)
    # and suggests labels besides. Without them EL2N has the best AP on the digits (99.3 to 99.6 %), and on labels known
    # by heart (99.5 %), but trains anew. The loss has no such cost, and is above the last layer on real noise (89.1 and
    # 85.7 %), below it by no more than 0.7 points on the digits.
    "mislabel_scores": ("labelcontrast", "el2n", "loss"),
}
"""Public method -> what does it best, best first, as measured in tests/benchmarks/RESULTS.md."""


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


def title_of(name: str) -> str:
    """What an estimator is called for a person; its name, where there is none of that name here.

    Args:
        name: such as "fvm".

    Returns:
        The title.
    """
    return {cls.name: cls.title for cls in all_estimators()}.get(name, name)


def available() -> pd.DataFrame:
    """What there is: name, paper, group, what it is good for, what it needs, what it gives, and its cost."""
    rows = [
        {
            "name": cls.name,
            "title": cls.title,
            "paper": cls.paper,
            "group": _group(cls),
            "good_for": cls.good_for,
            "needs": ", ".join(sorted({"checkpoint"} | cls.needs)),
            "gives": ", ".join(cls.gives()),
            "cost": cls.cost,
        }
        for cls in all_estimators()
    ]
    return pd.DataFrame(rows)


def _group(cls: type[Estimator]) -> str:
    """What it does to a training image's case: explains, detects, both, or edits."""
    explains, detects = "influence" in cls.gives(), "mislabel_scores" in cls.gives()
    if explains and detects:
        return "explains and detects"
    return "explains" if explains else "detects" if detects else "edits"


def recommended(
    study: Study, what: str = "influence", seconds: float = 60.0, there: Callable[[str], bool] = lambda name: False
) -> str:
    """The estimator to open with: the best by evidence that the study allows and that is expected to be done in time.

    Args:
        study: with or without a trajectory and a validation set.
        what: "influence" of one test image to explain it, or "mislabel_scores" to find wrong labels.
        seconds: how long fit and call may take, with default hyper-parameters on this machine.
        there: name -> whether its answer is stored already, so that it takes no time.

    Returns:
        Its name, as in ``get``. Where none of the best is done in time, the quickest that the study allows.

    Raises:
        InvalidInput: if ``what`` is neither.
        NotSupported: if the study allows none.

    Example:
        >>> import influence_core as ic
        >>> ic.estimators.recommended(ic.demo.digits())
        'ekfac'
    """
    if what not in BY_EVIDENCE:
        raise InvalidInput(f"there is no recommendation for {what!r}; choose one of {', '.join(BY_EVIDENCE)}")
    for name in BY_EVIDENCE[what]:
        if there(name):
            return name
        needed = expected_cost(study, get(name), what).seconds
        if needed is not None and needed <= seconds:
            return name
    return _quickest(study, what)


def _quickest(study: Study, what: str) -> str:
    """Of all that may tell something: no control that is not among the best."""
    known: dict[str, float] = {}
    telling = [cls.name for cls in all_estimators() if what in cls.gives() and cls.paper != "control"]
    for name in (*BY_EVIDENCE[what], *telling):
        needed = expected_cost(study, get(name), what).seconds
        if needed is not None:
            known[name] = needed
    if not known:
        raise NotSupported(f"no estimator is known to give {what.replace('_', ' ')} on the study {study.name!r}")
    return min(known, key=lambda name: known[name])
