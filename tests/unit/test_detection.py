"""``Detection.cut``: another threshold, the same curves."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import influence_core as ic
from influence_core.applications import detect
from tests.helpers import images, net

N = 60


@pytest.fixture(scope="module")
def study():
    train = images(N, seed=1, noise=0.3, name="train")
    return ic.Study(net(), train, images(9, seed=2))


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 3.0, 3.5, 6.0, 99.0])
def test_a_cut_is_what_detect_would_have_said(study, threshold):
    scores = ic.Scores(torch.arange(N).double() % 7, torch.arange(N), "mislabel")
    base = detect(study, scores)
    expected, found = detect(study, scores, threshold=threshold), base.cut(threshold)
    assert found.threshold == expected.threshold == threshold
    assert torch.equal(found.flagged, expected.flagged)
    same = {f.name for f in dataclasses.fields(base)} - {"threshold", "flagged"}
    assert all(getattr(found, name) is getattr(base, name) for name in same)  # nothing is computed again
    assert found.auc == expected.auc
    assert base.threshold != threshold  # and the first one is as it was
    assert base.flagged.tolist() == detect(study, scores).flagged.tolist()


def test_a_cut_without_truth(study):
    unknown = study.replaced(train=ic.data.LabelledDataset(study.train.base))
    found = detect(unknown, ic.Scores(torch.arange(N).double(), torch.arange(N), "mislabel")).cut(57.5)
    assert found.flagged.tolist() == [59, 58]
    assert found.auc is None
