"""Choosing parameters."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from influence_core.gradients import SelectionError, inner_products, per_sample_gradients, select, squared_norms, sweep
from tests.cases import CASES, TiedByModule, frozen_below
from tests.references import assert_close, flat, one_by_one


def test_ways_to_choose() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert list(select(model).parameters) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert list(select(model, "2").parameters) == ["2.weight", "2.bias"]
    assert list(select(model, "*.weight").parameters) == ["0.weight", "2.weight"]
    assert list(select(model, ["2.bias", "0.bias"]).parameters) == ["0.bias", "2.bias"]
    assert list(select(model, lambda name, parameter: parameter.dim() == 1).parameters) == ["0.bias", "2.bias"]
    assert select(model, {"0.weight": torch.eye(3, 2, dtype=torch.bool)}).size == 2
    chosen = select(model, "2")
    assert list(select(model, chosen).parameters) == list(chosen.parameters)


def test_a_selection_is_bound_anew_and_left_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    chosen, other = select(model, "2"), copy.deepcopy(model)
    bound = select(other, chosen)
    assert bound.parameters["2.weight"] is other[2].weight
    assert chosen.parameters["2.weight"] is model[2].weight


def test_tied_parameters_have_one_name_and_answer_to_both() -> None:
    model = TiedByModule()
    assert "decode.weight" not in select(model).parameters
    assert list(select(model, "decode").parameters) == ["embed.weight"]


def test_refusals() -> None:
    model = frozen_below()
    with pytest.raises(SelectionError, match=r"'2\.wieght' is neither.*close to it are '2\.weight'"):
        select(model, "2.wieght")
    with pytest.raises(SelectionError, match=r"'0\.weight' is frozen"):
        select(model, "0.weight")
    assert list(select(model, "2").parameters) == ["2.weight"]
    with pytest.raises(SelectionError, match="not a parameter of the model"):
        select(model, {"9.weight": torch.ones(1, dtype=torch.bool)})
    with pytest.raises(SelectionError, match=r"\(5, 5\) of torch\.float32; expected \(5, 5\) of torch\.bool"):
        select(model, {"2.weight": torch.ones(5, 5)})
    with pytest.raises(SelectionError, match="no trainable parameter"):
        select(model, lambda name, parameter: False)
    with pytest.raises(SelectionError, match="not in this model"):
        select(nn.Linear(2, 2), select(model))


@pytest.mark.parametrize(
    "name", ["resnet18", "vit", "tied embedding and linear", "bare parameter inside", "conv2d groups"]
)
def test_subsets_and_masks(name: str) -> None:
    model, loss, data = next(case for case in CASES if case.name == name).make()
    expected = one_by_one(model, loss, data)
    some = list(expected)[::2]
    found = per_sample_gradients(model, loss, data, parameters=some, batch_size=4)
    assert list(found) == some
    assert_close(flat(found), flat({key: expected[key] for key in some}))

    torch.manual_seed(1)
    masks = {key: torch.rand(expected[key].shape[1:]) > 0.5 for key in some}
    masks = {key: mask for key, mask in masks.items() if mask.any()}
    masked = {key: expected[key] * masks[key] for key in masks}
    found = per_sample_gradients(model, loss, data, parameters=masks, batch_size=4)
    assert_close(flat(found), flat(masked))
    assert_close(squared_norms(model, loss, data, parameters=masks, batch_size=4), flat(masked).square().sum(1))
    products = inner_products(model, loss, data, data, parameters=masks, batch_size=4)
    assert_close(products, flat(masked) @ flat(masked).T)


def test_share_of_a_subset() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    data = (torch.randn(4, 2), torch.zeros(4))
    report = sweep(model, lambda o, y: o.square().sum(1), data, [], parameters="2")
    assert report.coverage.selected == 4
    assert report.coverage.trainable == 13
    assert report.coverage.share == 4 / 13
    assert report.coverage.norm_selected is not None
    assert 0 < report.coverage.norm_selected < 1
