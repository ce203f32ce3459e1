from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

import influence_core as ic
from influence_core.curvature import GaussNewton, mean_diagonal, operators
from influence_core.curvature.shared import found_once, lasting, once
from tests.helpers import study as small_study


@pytest.fixture
def study() -> ic.Study:
    return small_study()


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A word for every time that something is kept."""
    made: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        real = getattr(operators, name)

        def call(*args: Any) -> Any:
            made.append(name)
            return real(*args)

        return call

    for name in ("keep_jacobians", "keep_matrix"):
        monkeypatch.setattr(operators, name, counted(name))
    return made


@pytest.mark.parametrize("name", ["conjugategradient", "lissa", "samif"])
def test_a_fit_keeps_jacobians_once(name: str, study: ic.Study, kept: list[str]) -> None:
    ic.estimators.get(name).fit(study)
    assert len(kept) == 1


def test_a_fit_with_two_models_keeps_those_of_each(study: ic.Study, kept: list[str]) -> None:
    ic.estimators.get("samhif", rho=0.05).fit(study)
    assert len(kept) == 2


def test_the_mean_diagonal_is_the_same_from_what_is_kept(study: ic.Study) -> None:
    arguments = study.model, study.loss, study.train
    alone = mean_diagonal(*arguments)
    dense = GaussNewton(*arguments).dense()
    with found_once():
        assert mean_diagonal(*arguments) == pytest.approx(alone, rel=1e-12)
    assert alone == pytest.approx(float(dense.diagonal().mean()), rel=1e-12)


def test_what_is_kept_is_that_of_its_own_parts(study: ic.Study) -> None:
    other = study.train.subset(range(len(study.train) // 2))
    with found_once():
        one, two = (GaussNewton(study.model, study.loss, data).kept() for data in (study.train, other))
        rows = torch.ones(1, one.size, dtype=torch.float64)
        for made, data in ((one, study.train), (two, other)):
            assert torch.allclose(made(rows), GaussNewton(study.model, study.loss, data)(rows), rtol=1e-12)
        assert not torch.allclose(one(rows), two(rows))


def test_nothing_outlasts_the_block() -> None:
    class Part:
        pass

    part = Part()
    gone = weakref.ref(part)
    with found_once():
        first = once("it", (part,), list)
        with found_once():
            assert once("it", (part,), list) is first
        assert once("it", (Part(),), list) is not first
        assert lasting()
    assert not lasting()
    assert once("it", (part,), list) is not first
    del part
    gc.collect()
    assert gone() is None


def test_a_failure_ends_the_block() -> None:
    with pytest.raises(ZeroDivisionError), found_once():
        raise ZeroDivisionError
    assert not lasting()
