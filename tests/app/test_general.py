"""Studies of no pictures and of no classes: one sentence says what the app cannot show."""

from __future__ import annotations

import argparse
import warnings

import pytest
import torch

import influence_core as ic
from tests.any_models import GENERAL, pad

from .runner import begun, start, texts

from parts import studies  # type: ignore[import-not-found]  # isort: skip

PAGES = ["overview.py", "explain.py", "mislabels.py", "relabel.py", "what_if.py"]
REGRESSION, ENCODER = GENERAL[0], GENERAL[3]


def opened(study: ic.Study) -> str:
    studies.sources()
    studies._sources["general"] = studies.Source(lambda: study, "study")
    return "general"


@pytest.mark.parametrize("page", PAGES)
def test_labels_that_are_no_classes(page: str) -> None:
    app = begun(page, run=opened(REGRESSION.study()))
    assert not app.exception
    assert not app.error
    (said,) = [info.value for info in app.info]
    assert "are no classes" in said
    assert len(said.split(". ")) == 1
    assert app.sidebar.selectbox(key="run").value == "general"


def words() -> ic.Study:
    draw = torch.Generator().manual_seed(0)
    base = [{"input_ids": torch.randint(1, 9, (5,), generator=draw), "labels": torch.tensor(i % 3)} for i in range(12)]
    data = ic.data.SampleSet(base, collate=pad, class_names=["a", "b", "c"])
    return ic.Study(ENCODER.model().float(), data, data, name="words")


@pytest.mark.parametrize("page", PAGES)
def test_samples_that_are_no_pictures(page: str) -> None:
    app = start(page, run=opened(words()))
    assert not app.exception
    assert not app.error
    assert texts(app).count("The samples of this study are no pictures") == 1
    assert "no pictures" not in texts(start(page))


def test_a_study_of_numbers_that_is_opened_by_its_path(tmp_path, monkeypatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        REGRESSION.study().save(tmp_path / "mine")
    monkeypatch.setattr(studies.arguments, "given", lambda: argparse.Namespace(root=tmp_path, study=[]))
    with pytest.raises(ic.InvalidInput, match="uses the loss"):
        studies.add("mine")
