"""A private model shares its weights with the caller's, and nothing else."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from influence_core.gradients import squared_norms
from influence_core.models.private import private
from tests.cases import CASES, Case, squares


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_same_function_of_the_same_memory(case: Case) -> None:
    model, _, data = case.make()
    mine = private(model)
    assert [name for name, _ in mine.named_modules()] == [name for name, _ in model.named_modules()]
    theirs = dict(model.named_parameters(remove_duplicate=False))
    own = dict(mine.named_parameters(remove_duplicate=False))
    assert list(own) == list(theirs)
    for name, parameter in own.items():
        assert parameter is not theirs[name]
        assert parameter.data_ptr() == theirs[name].data_ptr()
        assert parameter.requires_grad == theirs[name].requires_grad
    assert len(set(map(id, own.values()))) == len(set(map(id, theirs.values())))  # tied ones stay tied
    for one, two in zip(model.buffers(), mine.buffers(), strict=True):
        assert torch.equal(one, two)
        assert one.numel() == 0 or one.data_ptr() != two.data_ptr()
    with torch.no_grad():
        assert torch.equal(mine(data[0]), model(data[0]))


def test_flags_hooks_modes_and_buffers_are_ones_own() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    before = copy.deepcopy(model.state_dict())
    mine = private(model).requires_grad_(False)
    mine[0].register_forward_hook(lambda *_: None)
    mine(torch.randn(4, 2))
    mine.eval()
    assert all(p.requires_grad for p in model.parameters())
    assert not model[0]._forward_hooks
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_change_of_the_weights_is_seen() -> None:
    model = nn.Linear(2, 2)
    mine = private(model)
    with torch.no_grad():
        model.weight.fill_(3.0)
    assert bool((mine.weight == 3).all())


class Awkward(nn.Module):
    """Attributes of every kind that ``copy.deepcopy`` refuses or that lead back to the module."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.lock = threading.Lock()
        self.numbers = (n for n in range(3))
        self.product = self.layer.weight * 2  # no leaf
        self.kept = [self.layer.weight * 3]
        self.alias: Any = {"layer": self.layer}
        self.bound = self.scaled
        self.layer.weight.mark = "kept"  # type: ignore[attr-defined]

    def scaled(self, x: Tensor) -> Tensor:
        return self.alias["layer"](x)

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return self.bound(x) + x @ self.product.detach()


def test_awkward_attributes() -> None:
    model = Awkward().eval()
    mine = private(model)
    assert mine.alias["layer"] is mine.layer
    assert mine.bound.__self__ is mine
    assert mine.lock is model.lock
    assert mine.layer.weight.mark == "kept"
    x = torch.randn(3, 2)
    assert torch.equal(mine(x), model(x))
    assert squared_norms(model, squares, (x, torch.zeros(3))).shape == (3,)
    assert next(model.numbers) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2)).eval(),
        lambda: nn.LSTM(3, 2, batch_first=True),
        lambda: nn.TransformerEncoderLayer(3, 1, 4, batch_first=True).eval(),
        lambda: nn.ParameterList([torch.ones(2), torch.zeros(3)]),
    ],
    ids=["weight norm", "spectral norm", "lstm", "transformer", "list"],
)
def test_kinds_of_modules(make: Any) -> None:
    model = make()
    mine = private(model)
    assert [p.data_ptr() for p in mine.parameters()] == [p.data_ptr() for p in model.parameters()]
    if not isinstance(model, nn.ParameterList):
        x = torch.randn(2, 4, 3)
        found, expected = mine(x), model(x)
        assert torch.equal(found[0], expected[0])
    mine.requires_grad_(False)
    assert all(p.requires_grad for p in model.parameters())
