"""The selection in the URL: nonsense is told and left out, a change takes along what belongs to it, links lead back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

import influence_core as ic

sys.path.insert(0, str(Path(__file__).parents[2] / "pages"))

from parts import selection  # type: ignore[import-not-found]

STUDY = ic.demo.digits()
NUMBERS = st.integers(-(10**18), 10**18).map(str)
NASTY = st.one_of(
    st.text(max_size=40),
    NUMBERS,
    st.sampled_from(
        ["", ",", ",,", "-", "train-", "-1", "٣", "²", "1e3", "nan", "0" * 20 + "7", "9" * 5000, "\0", "\ud800"]
    ),
)
WORDS = st.sampled_from(
    [*selection.ORDERS, *selection.SIZES, *selection.FILTERS, "3", "loss", "ekfac", "loss,nonsense"]
)
IMAGES = st.builds("{}-{}".format, st.sampled_from(["train", "test", "Train", ""]), NASTY)
CELLS = st.builds("{},{}".format, NASTY, NASTY)
KEYS = ["estimator", "class", "test", "cell", "flag", "order", "k", "tiles", "image", "rows"]
URLS = st.dictionaries(st.sampled_from([*KEYS, "utm_source"]), st.one_of(NASTY, WORDS, IMAGES, CELLS))


def written(picked: Any) -> dict[str, str]:
    """The URL of a selection, written by hand: each part that is not what holds by itself."""
    parts = {
        "estimator": ",".join(picked.estimators),
        "class": None if picked.label is None else STUDY.class_names[picked.label],
        "test": picked.test,
        "cell": None if picked.cell is None else "{},{}".format(*picked.cell),
        "flag": picked.flag,
        "order": picked.order,
        "k": picked.k,
        "tiles": picked.size,
        "image": None if picked.image is None else "{}-{}".format(*picked.image),
        "rows": picked.rows,
    }
    return {key: str(value) for key, value in parts.items() if value not in (None, "")}


def sane(picked: Any) -> bool:
    """Whether every page can show it."""
    kinds = {c.name for c in ic.estimators.all_estimators()}
    return all([
        set(picked.estimators) <= kinds and len(set(picked.estimators)) == len(picked.estimators) <= 4,
        picked.label is None or 0 <= picked.label < STUDY.num_classes,
        picked.test is None or 0 <= picked.test < len(STUDY.test),
        picked.cell is None or all(0 <= k < STUDY.num_classes for k in picked.cell),
        picked.flag is None or 1 <= picked.flag < len(STUDY.train),
        picked.order in ("suspicion", "cut"),
        1 <= picked.k <= selection.MOST_IMAGES,
        picked.size in selection.SIZES,
        picked.rows in selection.FILTERS,
        picked.image is None or 0 <= picked.image[1] < len(STUDY.split(picked.image[0])),
    ])  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(URLS)
def test_whatever_a_url_says_can_be_shown_and_what_is_left_out_is_told(params: dict[str, str]) -> None:
    picked = selection.read(params, "digits", STUDY)
    assert sane(picked)
    assert all(note.strip() and len(note) < 300 for note in picked.notes)
    kept = written(picked)
    assert selection.read(kept, "digits", STUDY) == selection.without_notes(picked)  # and nothing of it is nonsense
    for key in params.keys() & set(KEYS):
        alone = selection.read({key: params[key]}, "digits", STUDY)
        assert len(alone.notes) <= 2  # however long the list
        plain = {n.lstrip("0") or "0" for n in params[key].replace("-", ",").split(",")}
        told = {n.lstrip("0") or "0" for n in written(alone).get(key, "").replace("-", ",").split(",")}
        if key != "estimator" and plain != told:
            assert alone.notes, params[key]


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("estimator", "nonsense", "estimator “nonsense”"),
        ("estimator", ",".join(f"a{i}" for i in range(500)), "499 more"),
        ("estimator", "loss,ekfac,tracin,deepknn,el2n", "5 estimators are too many"),
        ("class", "nonsense", "class “nonsense”"),
        ("test", "99999", "a number from 0 to"),
        ("cell", "3,99", "0 to 9"),
        ("cell", "0,00000000099", "0 to 9"),
        ("cell", f"0,{'0' * 5000}1", "0 to 9"),
        ("cell", "3", "0 to 9"),
        ("flag", "0", "a number from 1 to"),
        ("k", "999", "a number from 1 to 20"),
        ("order", "random", "suspicion, cut"),
        ("tiles", "huge", "small, medium, large"),
        ("rows", "none", "all, flagged, differs"),
        ("image", "train-99999", "There is no train image 99999"),
        ("image", "validation-3", "write train-17"),
    ],
)
def test_what_makes_no_sense_is_one_sentence_that_names_it(key: str, value: str, named: str) -> None:
    (note,) = selection.read({key: value}, "digits", STUDY).notes
    assert named in note


def test_what_makes_sense_is_read_without_a_word() -> None:
    params = {
        "estimator": "EKFAC,loss,ekfac", "class": "3", "test": "17", "cell": "3,8", "flag": "50", "order": "cut",
        "k": "7", "tiles": "large", "image": "test-17", "rows": "all",
    }  # fmt: skip
    picked = selection.read(params, "digits", STUDY)
    assert picked == selection.Selection(
        "digits", ("ekfac", "loss"), 3, 17, (3, 8), 50, "cut", 7, "large", ("test", 17), "all"
    )


def test_a_study_that_is_not_open_is_told() -> None:
    assert selection.read_run({}, ["one", "two"]) == ("one", [])
    assert selection.read_run({"run": "two"}, ["one", "two"]) == ("two", [])
    run, (note,) = selection.read_run({"run": "x" * 200}, ["one", "two"])
    assert run == "one"
    assert "xxx" in note
    assert "Here is one" in note
    assert len(note) < 120


EVERYTHING = {
    "run": "digits", "estimator": "loss", "class": "3", "test": "17", "cell": "3,8", "flag": "50", "order": "cut",
    "k": "7", "tiles": "large", "image": "train-5", "rows": "all",
}  # fmt: skip


def changed(**values: object) -> dict[str, str]:
    """The URL after a change of one that says everything."""

    def script(values: dict[str, object]) -> None:
        from parts import selection

        selection.change(**values)

    app = AppTest.from_function(script, kwargs={"values": values})
    app.query_params.update(EVERYTHING)
    app.run()
    assert not app.exception
    return dict(app.query_params)


@pytest.mark.parametrize(
    ("values", "gone"),
    [
        ({"run": "digits-40"}, {"class", "test", "cell", "flag", "image"}),
        ({"class": "5"}, {"test", "cell", "image"}),
        ({"class": None}, {"class", "test", "cell", "image"}),
        ({"cell": "3,5"}, {"test", "image"}),
        ({"test": 18}, {"image"}),
        ({"test": 18, "image": None}, {"image"}),
        ({"estimator": "ekfac"}, set()),
        ({"flag": 9}, set()),
        ({"k": None}, {"k"}),
        ({"run": "digits-40", "test": 3}, {"class", "cell", "flag", "image"}),
    ],
)
def test_a_change_takes_along_what_belongs_to_the_former_value(values: dict[str, object], gone: set[str]) -> None:
    new = {key: str(value) for key, value in values.items() if value is not None}
    assert changed(**values) == {key: value for key, value in (EVERYTHING | new).items() if key not in gone}


@settings(max_examples=8, deadline=None)
@given(URLS.map(lambda url: {key: value.replace("\ud800", "") for key, value in url.items()}))
def test_a_link_leads_back_to_what_is_shown(params: dict[str, str]) -> None:
    def script() -> None:
        import streamlit as st
        from parts import selection

        st.code(selection.link("explain"), language=None)

    app = AppTest.from_function(script)
    app.query_params.update(params)
    app.run()
    assert not app.exception
    parts = urlsplit(app.code[0].value)
    assert parts.path.endswith("explain")
    back = dict(parse_qsl(parts.query, keep_blank_values=True))
    kept = {key: value for key, value in params.items() if key != "image"}  # an open panel stays behind
    assert selection.read(back, "digits", STUDY) == selection.read(kept, "digits", STUDY)
