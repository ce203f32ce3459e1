"""Several datasets as one."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

import influence_core as ic
from tests.helpers import images


def test_samples_stand_one_after_the_other() -> None:
    one, two = images(5, seed=1), images(3, seed=2).subset([2, 0])
    both = ic.data.join([one, two])
    assert len(both) == 7
    assert torch.equal(both.labels, torch.cat([one.labels, two.labels]))
    order = [6, 0, 5, 4, 0]
    inputs, labels = both.batch(order)
    for row, i in enumerate(order):
        x, y = one[i] if i < 5 else two[i - 5]
        assert torch.equal(inputs[row], x)
        assert torch.equal(both[i][0], x)
        assert int(labels[row]) == y
    whole = torch.cat([one.batch(range(5))[0], two.batch(range(2))[0]])
    flat = ic.data.LabelledDataset(TensorDataset(whole, both.labels), name="train")
    assert both.fingerprint == flat.fingerprint


def test_what_all_parts_have_is_kept() -> None:
    study = ic.demo.digits()
    both = ic.data.join([study.train, study.train.subset([1, 0])])
    assert both.class_names == study.train.class_names
    assert both.true_labels is not None
    assert study.train.true_labels is not None
    assert both.true_labels[-1] == study.train.true_labels[0]
    assert both.picture(len(study.train)).tobytes() == study.train.picture(1).tobytes()
    assert both.sample_ids is None


def test_other_classes_are_refused() -> None:
    one = images(4, seed=1)
    named = [ic.data.LabelledDataset(one.base, labels=one.labels, class_names=names) for names in ("abc", "acb")]
    with pytest.raises(ic.InvalidInput, match="other classes"):
        ic.data.join(named)
    with pytest.raises(ic.InvalidInput, match="at least one"):
        ic.data.join([])
