"""Studies at the edge: one training image, no mistake, a class without test images; what is said of a click."""

from __future__ import annotations

import pytest
import streamlit as st

import influence_core as ic

from .runner import fine, start, texts

from parts import errors, selection, studies  # type: ignore[import-not-found]  # isort: skip

PAGES = ["overview.py", "explain.py", "mislabels.py", "relabel.py", "what_if.py"]


def opened(study: ic.Study) -> str:
    studies.sources()
    studies._sources["odd"] = studies.Source(lambda: study, "study")
    return "odd"


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("query", [{}, {"set": "class", "class": "0"}, {"set": "harmful", "test": "0"}])
def test_one_training_image(demo: ic.Study, page: str, query: dict[str, str]) -> None:
    one = demo.train.subset([0]).with_labels([0])
    app = start(page, run=opened(demo.replaced(train=one, test=demo.test.subset(range(20)), trajectory=None)), **query)
    assert not app.exception
    assert not app.error


@pytest.mark.parametrize("page", ["explain.py", "what_if.py"])
def test_no_mistake_at_all_is_not_said_of_a_class(demo: ic.Study, page: str) -> None:
    right = (demo.predictions() == demo.test.labels).nonzero().flatten()[:30]
    app = start(page, run=opened(demo.replaced(test=demo.test.subset(right))), set="harmful")
    assert "The model makes no mistake. Choose" in texts(app)
    assert "this class" not in texts(app)


def test_a_class_without_test_images_is_not_praised(demo: ic.Study) -> None:
    others = (demo.test.labels != 4).nonzero().flatten()[:60]
    app = start("overview.py", run=opened(demo.replaced(test=demo.test.subset(others))), **{"class": "4"})
    assert "There is no test image of class 4" in texts(app)
    assert "right. Choose another class" not in texts(app)
    assert fine(app)


@pytest.mark.parametrize("words", ["a -- b", "a -> b", "x <- y", "p >= q", "-- a"])
def test_signs_that_streamlit_makes_others_of_do_not_stand_alone(words: str) -> None:
    shown = errors.as_text(words).replace("\\", "")
    assert shown.replace("\u2060", "") == words
    assert not errors._SIGNS.search(shown)
    assert errors.as_text("a--b -x") == "a--b -x"


def test_what_a_click_is_refused_for_is_told_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    state: dict[str, str] = {}
    monkeypatch.setattr(st, "session_state", state)
    told: list[str] = []
    monkeypatch.setattr(st, "warning", lambda words, **_: told.append(words))

    def gone() -> None:
        raise ic.InvalidInput("there is no job any more")

    errors.refused(gone)
    errors.show_refused()
    errors.show_refused()
    assert told == ["there is no job any more"]


def test_a_change_of_the_selection_is_one_step_of_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[dict[str, str]] = []

    class Params(dict[str, str]):
        def to_dict(self) -> dict[str, str]:
            return dict(self)

        def from_dict(self, given: dict[str, str]) -> None:
            steps.append(given)

    monkeypatch.setattr(st, "query_params", Params(run="a", test="5", cell="1,2", k="7", estimator="loss"))
    selection.change(run="b")
    selection.change(k=None, size="large")
    assert len(steps) == 2
    assert steps[0]["run"] == "b"
    assert "test" not in steps[0]
    assert steps[1]["size"] == "large"
    assert "k" not in steps[1]
