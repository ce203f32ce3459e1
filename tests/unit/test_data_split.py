"""Splits: disjoint, together the whole, the same share of every class, and still the samples that they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput
from tests.any_models import sentences
from tests.picture_files import folder


def counted(*sizes: int) -> LabelledDataset:
    labels = torch.cat([torch.full((size,), k) for k, size in enumerate(sizes)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(9))]
    return LabelledDataset(
        TensorDataset(torch.arange(len(labels), dtype=torch.float32)[:, None], labels),
        true_labels=(labels + 1) % len(sizes),
        filepaths=[f"{i}.png" for i in range(len(labels))],
        sample_ids=[f"s{i}" for i in range(len(labels))],
        pictures=lambda i: np.full((2, 2), i, np.uint8),
    )


@pytest.mark.parametrize(
    ("sizes", "validation", "test", "expected"),
    [
        ((50, 30, 20), 0.1, 0.1, (80, 10, 10)),
        ((50, 30, 20), 0.25, 0.5, (25, 25, 50)),
        ((7, 7, 7), 0.2, 0.2, (13, 4, 4)),
        ((10, 1, 1), 0.2, 0.2, (8, 2, 2)),
        ((40, 2), 0.5, 0.0, (21, 21, None)),
        ((40, 2), 0.0, 0.25, (32, None, 10)),
        ((9,), 0.0, 0.0, (9, None, None)),
    ],
)
def test_shares_and_classes(sizes, validation, test, expected):
    data = counted(*sizes)
    parts = ic.data.split(data, validation, test, seed=3)
    assert tuple(None if p is None else len(p) for p in parts) == expected
    there = [p for p in parts if p is not None]
    ids = [int(p.batch([i])[0]) for p in there for i in range(len(p))]
    assert sorted(ids) == list(range(sum(sizes)))
    for part, share in zip(parts[1:], (validation, test), strict=True):
        if part is not None:
            counts = torch.bincount(part.labels, minlength=len(sizes)).tolist()
            assert all(abs(c - share * s) <= 1 for c, s in zip(counts, sizes, strict=True))
    assert set(parts.train.labels.tolist()) == set(range(len(sizes)))
    assert [p.name for p in there] == [n for n, p in zip(parts._fields, parts, strict=True) if p is not None]


def test_a_part_keeps_what_is_known_of_its_samples():
    data = counted(30, 30)
    part = ic.data.split(data).test
    ids = part.batch(range(len(part)))[0].flatten().long()
    assert ids.tolist() == sorted(ids.tolist())
    assert part.filepaths == [f"{i}.png" for i in ids]
    assert part.sample_ids == [f"s{i}" for i in ids]
    assert torch.equal(part.labels, data.labels[ids])
    assert torch.equal(part.true_labels, data.true_labels[ids])
    assert [np.asarray(part.picture(k)).max() for k in range(len(part))] == ids.tolist()


def test_the_seed_decides_and_nothing_else():
    torch.manual_seed(1)
    first = ic.data.split(counted(30, 30), seed=4)
    torch.manual_seed(2)
    again, other = ic.data.split(counted(30, 30), seed=4), ic.data.split(counted(30, 30), seed=5)
    for one, two, three in zip(first, again, other, strict=True):
        assert one.filepaths == two.filepaths
        assert one.filepaths != three.filepaths


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.1), (0.5, 0.5), (1.0, 0.0), (float("nan"), 0.1)])
def test_shares_that_are_none(validation, test):
    with pytest.raises(InvalidInput, match="shares from 0, together below 1"):
        ic.data.split(counted(10, 10), validation, test)


def test_other_refusals():
    with pytest.raises(InvalidInput, match=r"validation=0.01 of 20 samples is none"):
        ic.data.split(counted(10, 10), 0.01)
    with pytest.raises(InvalidInput, match="is none: give a larger share"):
        ic.data.split(counted(10, 10).subset([]))
    with pytest.raises(InvalidInput, match=r"expected .input tensor, label."):
        ic.data.split([1, 2])


def test_any_dataset_is_split():
    classes = TensorDataset(torch.arange(20).float()[:, None], torch.arange(20) // 10)
    of_ours = ic.data.split(ic.data.wrap(classes, "train"), 0.2, 0.2)
    for mine, other in zip(ic.data.split(classes, 0.2, 0.2), of_ours, strict=True):
        assert torch.equal(mine.batch(range(len(mine)))[0], other.batch(range(len(other)))[0])
    numbers = TensorDataset(torch.arange(20).float()[:, None], torch.rand(20))
    for data in (numbers, sentences(20, 0, tagged=True)):
        parts = ic.data.split(data, 0.2, 0.1)
        assert [(part.name, len(part)) for part in parts] == [("train", 14), ("validation", 4), ("test", 2)]
    found = torch.cat([part.batch(range(len(part)))[0] for part in ic.data.split(numbers, 0.2, 0.1)])
    assert found.flatten().sort().values.tolist() == list(range(20))


def test_parts_of_a_folder_are_saved_by_reference(tmp_path):
    parts = ic.data.split(ic.data.image_folder(folder(tmp_path / "set", each=10)), 0.2, 0.2)
    model = ic.models.build("small_cnn", channels=3, classes=3)
    study = ic.Study(model, parts.train, parts.test, parts.validation)
    study.save(tmp_path / "study")
    loaded = ic.Study.load(tmp_path / "study")
    assert loaded.fingerprint == study.fingerprint
    for split in ("train", "validation", "test"):
        assert loaded.split(split).filepaths == study.split(split).filepaths
        assert torch.equal(loaded.split(split).labels, study.split(split).labels)
    assert not list((tmp_path / "study").glob("train-*.safetensors"))
