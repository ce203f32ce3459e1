"""The numbers of a method do not change without its version: results that are kept would be stale unnoticed."""

from __future__ import annotations

import copy

import pytest

from influence_core.estimators import Estimator
from tests.estimator_settings import own_estimators
from tests.unit import golden

KNOWN = golden.known_scores()


@pytest.mark.parametrize("cls", own_estimators(), ids=lambda cls: cls.name)
def test_numbers_belong_to_the_version(cls: type[Estimator]) -> None:
    wrong = golden.verdict(cls.__name__, golden.scores_of(cls), KNOWN.get(cls.name))
    assert not wrong, wrong


def test_the_file_names_no_other_estimators() -> None:
    assert KNOWN.keys() == {cls.name for cls in own_estimators()}


def test_a_change_of_the_numbers_or_of_the_version_is_seen() -> None:
    known = KNOWN["tracin"]
    assert golden.verdict("TracIn", copy.deepcopy(known), known) == ""
    rounded = copy.deepcopy(known)
    rounded["methods"]["influence"]["values"][2] *= 1 + 1e-9
    assert golden.verdict("TracIn", rounded, known) == ""
    for what in ("values", "mean_square", "shape"):
        changed = copy.deepcopy(known)
        numbers = changed["methods"]["influence"]
        if what == "values":
            numbers["values"][2] += 1e-5 * numbers["mean_square"] ** 0.5
        elif what == "mean_square":
            numbers["mean_square"] *= 1 + 1e-5
        else:
            numbers["shape"] = numbers["shape"][::-1]
        assert "TracIn changed (influence) and its version did not" in golden.verdict("TracIn", changed, known)
    gone = {"version": 1, "methods": {"influence": known["methods"]["influence"]}}
    assert "(mislabel_scores, self_influence)" in golden.verdict("TracIn", gone, known)
    raised = known | {"version": 2}
    assert "is of version 2 and golden_scores.json has version 1: write" in golden.verdict("TracIn", raised, known)
    assert "has no numbers" in golden.verdict("TracIn", known, None)
