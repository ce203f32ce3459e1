"""The checks of ``ic.testing`` on a study without images and classes, for estimators that need neither."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.testing import CHECKS, contract, numbers, threads
from tests.any_models import Squeezed, squared
from tests.estimator_settings import quick

FOR_CLASSES = {
    "labels_on_the_jar": "reads the names of classes",
    "not_finite": "spoils a pixel",
    "parameter_change_of_a_mix": "gives images other classes",
}
ESTIMATORS = ["tracin", "randproj", "conjugategradient", "ekfac", "datainf"]
NAMES = [
    name
    for name, check in CHECKS.items()
    if check.run.__module__ in (m.__name__ for m in (contract, numbers, threads)) and name not in FOR_CLASSES
]


@functools.cache
def made(seed: int) -> ic.Study:
    def part(size: int, number: int, name: str) -> ic.data.SampleSet:
        generator = torch.Generator().manual_seed(10 * seed + number)
        inputs = torch.rand(size, 4, generator=generator).double()
        noise = 0.3 * torch.randn(size, generator=generator).double()
        return ic.data.SampleSet(TensorDataset(inputs, inputs.sum(1) + noise), name=name)

    train = part(24, 1, "train")
    torch.manual_seed(seed)
    model = Squeezed().double()
    settings = {"epochs": 4, "batch_size": 8, "learning_rate": 0.05, "weight_decay": 1e-3, "checkpoints": 4}
    trajectory = ic.training.fit(model, train, loss=squared, optimizer="sam", **settings)
    return ic.Study(model, train, part(9, 3, "test"), part(12, 2, "validation"), trajectory, loss=squared)


def regression_study(seed: int = 0) -> ic.Study:
    """A regression of the sizes of the study that the checks have otherwise."""
    return copy.deepcopy(made(seed))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_contract_holds_for_a_regression(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (contract, numbers, threads):
        monkeypatch.setattr(module, "network_study", regression_study)
    kind = type(ic.estimators.get(name))
    passed = [check for check, run in ic.testing.estimator_checks(quick(kind)) if check in NAMES and run() is None]
    assert len(passed) >= 15
