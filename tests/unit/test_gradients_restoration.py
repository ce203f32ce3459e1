"""The model is afterwards as it was before, whatever happens."""

from __future__ import annotations

import signal
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from influence_core.curvature import GaussNewton
from influence_core.gradients import Gradients, output_grams, squared_norms, sweep
from influence_core.progress import listen, track
from tests.cases import CASES, Case, squares


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that could be left changed."""
    return {
        "parameters": {name: (id(p), p.detach().clone(), p._version) for name, p in model.named_parameters()},
        "flags": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": {name: p.grad for name, p in model.named_parameters()},
        "buffers": {name: (id(b), b.clone()) for name, b in model.named_buffers()},
        "training": [module.training for module in model.modules()],
        "hooks": [
            [len(hooks) for name, hooks in sorted(vars(module).items()) if name.endswith("_hooks")]
            for module in model.modules()
        ],
    }


def same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return left == right


class Counting(nn.Module):
    """Counts its calls in a buffer, and replaces another one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = self.layer(x).detach()[0]
        return self.layer(x)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_afterwards(case: Case) -> None:
    model, loss, data = case.make()
    before = state(model)
    squared_norms(model, loss, data, batch_size=4)
    assert same(state(model), before)


def test_buffers_that_change_in_the_forward_pass() -> None:
    model = Counting().eval()
    before = state(model)
    squared_norms(model, squares, (torch.randn(5, 4), torch.zeros(5)), batch_size=2)
    assert same(state(model), before)


class Drifting(Counting):
    """Its outputs depend on how often it was called."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + self.calls)


def test_every_product_is_with_the_same_matrix() -> None:
    model = Drifting().eval()
    before = state(model)
    matrix = GaussNewton(model, squares, (torch.randn(5, 4), torch.zeros(5)), batch_size=5)
    rows = torch.eye(matrix.size)
    assert torch.equal(matrix(rows), matrix(rows))
    assert torch.equal(matrix.output_changes(rows), matrix.output_changes(rows))
    assert same(state(model), before)


class Failing(Gradients):
    """A consumer that breaks in the middle of a sweep."""

    def consume(self, block: Any) -> None:
        if block.samples.start > 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["in place", "resnet18", "vit", "tied through a function", "recurrent"])
def test_after_an_exception_in_mid_sweep(name: str) -> None:
    model, loss, data = next(case for case in CASES if case.name == name).make()
    model.train(False)
    before = state(model)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, loss, data, [Failing()], batch_size=2)
    assert same(state(model), before)


def process() -> list[Any]:
    """What of the process a pass changes while it runs."""
    cuda = torch.backends.cuda
    flags = [cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()]
    return [torch.backends.mha.get_fastpath_enabled(), *flags, torch.is_grad_enabled(), list(warnings.filters)]


def cancelled(done: int) -> None:
    if done == 2:
        raise StopWork


def interrupted(done: int) -> None:
    if done == 2:
        signal.raise_signal(signal.SIGINT)


class StopWork(Exception):
    """What a listener raises to stop the work."""


@pytest.mark.parametrize("name", ["resnet18", "vit", "recurrent", "functional use"])
@pytest.mark.parametrize(("stop", "error"), [(cancelled, StopWork), (interrupted, KeyboardInterrupt)])
@pytest.mark.parametrize("kind", ["sweep", "grams", "product", "output change"])
def test_after_being_stopped_from_outside(name: str, stop: Any, error: type[BaseException], kind: str) -> None:
    model, loss, data = next(case for case in CASES if case.name == name).make()
    model.eval()
    works: dict[str, Any] = {
        "sweep": lambda: squared_norms(model, loss, data, batch_size=1),
        "grams": lambda: output_grams(model, data, batch_size=1),
        "product": lambda: matrix(torch.ones(1, matrix.size, dtype=matrix.parameters[0].dtype)),
        "output change": lambda: matrix.output_changes(torch.ones(1, matrix.size, dtype=matrix.parameters[0].dtype)),
    }
    matrix = GaussNewton(model, loss, data, batch_size=1)
    before, around, calls = state(model), process(), []

    def listener(what: str, done: int, total: int) -> None:
        calls.append(done)
        stop(len(calls) - 1)

    with pytest.raises(error), listen(listener):
        [works[kind]() for _ in track([1], "work")]
    assert len(calls) >= 3
    assert same(state(model), before)
    assert process() == around
    with torch.no_grad():
        assert torch.isfinite(model(data[0])).all()


def test_after_an_exception_in_the_loss() -> None:
    model = Counting().eval()
    calls = []

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        calls.append(len(outputs))
        if calls.count(2) > 3:
            raise ArithmeticError
        return squares(outputs, labels)

    before = state(model)
    with pytest.raises(ArithmeticError):
        squared_norms(model, loss, (torch.randn(9, 4), torch.zeros(9)), batch_size=2)
    assert same(state(model), before)


def test_the_comparison_sees_a_change() -> None:
    model = Counting().eval()
    before = state(model)
    model.layer.bias.requires_grad_(False)
    assert not same(state(model), before)
    model.layer.bias.requires_grad_(True)
    handle = model.layer.register_forward_hook(lambda *_: None)
    assert not same(state(model), before)
    handle.remove()
    assert same(state(model), before)
    model(torch.randn(1, 4))
    assert not same(state(model), before)
