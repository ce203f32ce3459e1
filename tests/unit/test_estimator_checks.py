"""Every estimator of the package keeps the contract of ``ic.testing``."""

from __future__ import annotations

import pytest

import influence_core as ic
from tests.estimator_settings import own_estimators, quick

CASES = [
    pytest.param(check, id=f"{cls.name}-{name}")
    for cls in own_estimators()
    for name, check in ic.testing.estimator_checks(quick(cls))
]


@pytest.mark.parametrize("check", CASES)
def test_contract(check):
    check()
