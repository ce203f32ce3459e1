"""Decoded pictures are kept within a budget, and nothing but time depends on it."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image

import influence_core as ic
from influence_core.data import EncodedImages
from influence_core.data.cache import PixelCache, _budget
from influence_core.errors import InvalidInput
from tests.picture_files import encoded, folder, noise


@pytest.fixture(autouse=True)
def former_budget():
    before = _budget["mib"]
    yield
    _budget["mib"] = before


def pictures(count=20, size=(5, 4, 3)):
    return EncodedImages([encoded(Image.fromarray(noise(i, size))) for i in range(count)], torch.zeros(count).long())


@pytest.mark.parametrize("kept", [0, 1, 7, 20, 10**6])
def test_no_result_depends_on_the_budget(kept):
    ic.data.set_cache(0)
    expected = pictures().inputs(torch.arange(20))
    each = 5 * 4 * 3
    ic.data.set_cache(kept * each / (1 << 20))
    data = pictures()
    orders = [torch.randperm(20, generator=torch.Generator().manual_seed(s)) for s in range(3)]
    for ids in (torch.arange(4), torch.tensor([3, 3, 9]), *orders):
        assert torch.equal(data.inputs(ids), expected[ids])
    assert data._cache.bytes == min(kept, 20) * each


def test_a_picture_is_decoded_once_where_there_is_room(monkeypatch):
    data, made = pictures(), []
    real = data.source.image
    monkeypatch.setattr(data.source, "image", lambda index, upright=False: made.append(index) or real(index, upright))
    for _ in range(3):
        data.inputs(torch.arange(20))
    assert sorted(made) == list(range(20))
    assert data[7][0].dtype == torch.float32
    assert len(made) == 20


def test_what_is_given_out_is_nobody_elses():
    data = pictures()
    first = data.inputs(torch.arange(20))
    kept = first.clone()
    first.zero_()
    assert torch.equal(data.inputs(torch.arange(20)), kept)


def test_pictures_of_other_sizes_are_not_mixed_up():
    sources = [encoded(Image.fromarray(noise(i, (4 + i % 2, 4, 3)))) for i in range(6)]
    data = EncodedImages(sources, torch.zeros(6).long())
    for _ in range(2):
        assert [tuple(data[i][0].shape) for i in range(6)] == [(3, 4, 4), (3, 5, 4)] * 3
    with pytest.raises(InvalidInput, match=r"sample 1 has shape \(3, 5, 4\), sample 0 has \(3, 4, 4\)"):
        data.inputs(torch.arange(6))
    assert torch.equal(data.inputs(torch.tensor([0, 2, 4])), torch.stack([data[i][0] for i in (0, 2, 4)]))


def test_many_threads_fill_one_cache():
    expected = pictures(60).inputs(torch.arange(60))
    for _ in range(3):
        data = pictures(60)
        orders = [torch.randperm(60, generator=torch.Generator().manual_seed(s)) for s in range(8)]
        with ThreadPoolExecutor(8) as pool:
            for ids, got in zip(orders, pool.map(data.inputs, orders), strict=True):
                assert torch.equal(got, expected[ids])
        assert data._cache.bytes == 60 * 5 * 4 * 3


def test_a_copy_fills_its_own():
    data = pictures()
    data.inputs(torch.arange(20))
    for other in (copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert other._cache.bytes == 0
        assert torch.equal(other.inputs(torch.arange(20)), data.inputs(torch.arange(20)))


def test_an_unknown_transform_is_asked_again_each_time(tmp_path):
    asked = []
    data = ic.data.image_folder(
        folder(tmp_path / "set"), transform=lambda image: asked.append(1) or torch.zeros(3, 2, 2)
    )
    data.batch([0, 1])
    data.batch([0, 1])
    assert len(asked) == 4


@pytest.mark.parametrize("mib", [-1, float("nan"), "much", None])
def test_budgets_that_are_none(mib):
    with pytest.raises(InvalidInput, match="memory for decoded pictures in MiB"):
        ic.data.set_cache(mib)


def test_nothing_of_nothing():
    assert PixelCache(3).gather([], lambda index: torch.zeros(2)).numel() == 0
