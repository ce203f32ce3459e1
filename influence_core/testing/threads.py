"""Checks of what happens twice at once, and of what asking leaves behind."""

from __future__ import annotations

import copy
from typing import Any

from influence_core.estimators import Estimator
from influence_core.study import Study
from influence_core.testing.checks import Subject, check
from influence_core.testing.problems import network_study
from influence_core.testing.tools import assert_same, at_once, changed, equal, outcomes, snapshot

_ROUNDS = 2
"""What goes wrong among threads does not go wrong every time."""


@check()
def two_threads(subject: Subject) -> None:
    """Two threads that fit two estimators of one study, and then ask one of them, get the numbers of one thread."""
    study = network_study()
    before = snapshot(study)
    expected = outcomes(subject.make().fit(study))
    for _ in range(_ROUNDS):
        fitted = at_once([lambda: subject.make().fit(study)] * 2)
        for estimator in fitted:
            assert_same(outcomes(estimator), expected, 0.0, "another estimator of the study was fitted at once")
        for found in at_once([lambda one=fitted[0]: outcomes(one)] * 2):  # type: ignore[misc]
            assert_same(found, expected, 0.0, "the estimator was asked from two threads at once")
    after = changed(before, snapshot(study))
    assert not after, f"two threads changed {', '.join(after[:4])}"


@check()
def scoring_leaves_the_estimator(subject: Subject) -> None:
    """An estimator that was asked holds exactly what it held before."""
    estimator = subject.make().fit(network_study())
    held = _held(estimator)
    before = copy.deepcopy(held)
    outcomes(estimator)
    after = _held(estimator)
    names = [name for name in before | after if name not in before or not equal(before[name], after.get(name))]
    assert not names, (
        f"asking changed the attribute {', '.join(map(repr, names))}: two threads that ask would get each other's; "
        "what a call finds out has to travel with its result"
    )


def _held(estimator: Estimator) -> dict[str, Any]:
    """The attributes; without the study, which has a check of its own and remembers its outputs."""
    return {name: value for name, value in vars(estimator).items() if not isinstance(value, Study)}
