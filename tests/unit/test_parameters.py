"""Hyper-parameters of a wrong type, NaN, or out of range are refused by name, by every estimator."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.errors import InvalidInput
from influence_core.parameters import check_numbers, check_types
from influence_core.training import check_sgd, seeded
from tests.estimator_settings import own_estimators, quick
from tests.helpers import study

FIELDS = [(cls, field.name) for cls in own_estimators() for field in fields(cls)]


@pytest.mark.parametrize(("cls", "name"), FIELDS, ids=[f"{cls.name}-{name}" for cls, name in FIELDS])
def test_what_is_no_number_is_refused_by_name(cls, name):
    for value in (object(), math.nan, -1j):
        with pytest.raises(InvalidInput, match=name):
            cls(**{name: value})


@dataclass
class Typed:
    count: int = 1
    size: float | None = None
    kind: Literal["one", "two"] = "one"
    scale: float | Literal["auto"] = "auto"
    on: bool = True
    anything: object = None

    def __post_init__(self):
        check_types(self)
        check_numbers(self)


def test_types_are_those_of_the_fields():
    Typed(2, 3, "two", 1, False, object())
    Typed(size=0.5, scale=3.5)
    for given, message in (
        ({"count": 1.5}, "count is 1.5; expected a whole number"),
        ({"count": True}, "count is True; expected a whole number"),
        ({"size": "1"}, "size is '1'; expected a number or None"),
        ({"size": math.nan}, "size is nan; expected a number"),
        ({"kind": 1}, "kind is 1; choose 'one' or 'two'"),
        ({"kind": "three"}, "kind is 'three'; choose 'one' or 'two'"),
        ({"scale": None}, "scale is None; choose 'auto' or a number"),
        ({"scale": "other"}, "scale is 'other'; choose 'auto' or a number"),
        ({"on": 1}, "on is 1; expected True or False"),
    ):
        with pytest.raises(InvalidInput, match=message):
            Typed(**given)


@pytest.mark.parametrize(
    "given", [(0.0, 0, 0), (math.inf, 0, 0), (math.nan, 0, 0), (1, -1, 0), (1, 1, 0), (1, 0, -1), (1, 0, math.inf)]
)
def test_sgd_is_checked_before_torch_sees_it(given):
    message = "a positive learning rate, a momentum"
    with pytest.raises(InvalidInput, match=message):
        check_sgd(*given)
    settings = dict(zip(("learning_rate", "momentum", "weight_decay"), given, strict=True))
    with pytest.raises(InvalidInput, match=message):
        ic.training.fit(nn.Linear(2, 2), TensorDataset(torch.zeros(4, 2), torch.zeros(4).long()), epochs=5, **settings)
    for cls in (ic.estimators.VM, ic.estimators.TunedLoss, ic.estimators.GEX):
        if not any(math.isnan(v) for v in given):
            with pytest.raises(InvalidInput, match=message):
                cls(**settings)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("fvm", {"rho": math.inf}),
        ("vm", {"damping": math.inf}),
        ("vm", {"epsilon": -1.0}),
        ("vm", {"epsilon": math.inf}),
        ("samhif", {"damping": math.inf}),
        ("laplace", {"damping": math.inf}),
        ("gex", {"epochs": math.inf}),
        ("el2n", {"epoch_share": math.inf}),
        ("forgetting", {"epoch_share": math.inf}),
        ("gif", {"step": math.inf}),
    ],
)
def test_infinity_is_refused_where_it_means_nothing(name, given):
    with pytest.raises(InvalidInput, match=f"{next(iter(given))}"):
        ic.estimators.get(name, **given)


def test_a_negative_seed_of_the_folds():
    assert len(ic.estimators.ConfidentLearning(seed=-1).fit(study()).mislabel_scores().values) == 24


@pytest.mark.parametrize("name", ["vm", "gex", "el2n"])
def test_one_image_has_no_variance_for_batch_normalisation(name):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    one = TensorDataset(torch.rand(1, 2, 2), torch.zeros(1, dtype=torch.long))
    estimator = quick(next(c for c in own_estimators() if c.name == name))()
    with pytest.raises(InvalidInput, match="no variance for batch normalisation: give two or more images"):
        estimator.fit(ic.Study(model, one, one, one))


def test_seeded_draws_leave_no_trace():
    before = torch.get_rng_state()
    with seeded(3, torch.device("cpu")):
        one = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, torch.rand(2, generator=torch.Generator().manual_seed(3)))
