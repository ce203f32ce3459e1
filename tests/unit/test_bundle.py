"""The answers that come with the demo: all there, and those of the estimators as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import influence_core as ic
from influence_core.cli.bundling import requests
from influence_core.store import Store, beside


@pytest.fixture(scope="module")
def study() -> ic.Study:
    return ic.demo.digits()


def test_every_question_about_the_demo_is_answered(study: ic.Study, tmp_path: Path) -> None:
    store = Store(tmp_path, also=beside(study))
    asked = requests(study)
    missing = [one.title for one in asked if store.find(one) is None]
    assert not missing, "stale or missing: make them again with influence demo-results --work FOLDER"
    assert len(asked) > 40
    assert {one.estimator.name for one in asked} == {
        cls.name
        for cls in ic.estimators.all_estimators()
        if cls.__module__.startswith("influence_core.") and set(cls.gives()) - {"parameter_change"}
    }


@pytest.mark.parametrize("name", ["lastlayer", "ekfac", "tracin", "randproj"])
def test_an_answer_is_that_of_the_estimator(study: ic.Study, tmp_path: Path, name: str) -> None:
    wrong = study.misclassified()[2:4]
    found = Store(tmp_path, also=beside(study)).find(ic.store.Request.of(study, name, "influence", wrong))
    direct = ic.estimators.get(name).fit(study).influence(wrong)
    assert found.test_ids.tolist() == wrong.tolist()
    torch.testing.assert_close(found.values, direct.values, rtol=1e-3, atol=1e-4 * float(direct.values.abs().max()))
