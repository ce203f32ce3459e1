"""Gram matrices of the outputs' gradients, against one backward pass per sample and output."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from influence_core.gradients import GradientError, output_grams, output_jacobians, squared_norms
from tests.cases import CASES, Case, normal
from tests.helpers import images, net
from tests.references import assert_close, one_by_one

OUTPUTS = 3


class Mixed(nn.Module):
    """Any model with its outputs mixed into a row of three, by fixed numbers."""

    def __init__(self, model: nn.Module, inputs: Tensor) -> None:
        super().__init__()
        self.model = model
        with torch.no_grad():
            size = model(inputs[:1]).flatten(1).shape[1]
        self.register_buffer("mixture", torch.randn(size, OUTPUTS, dtype=torch.float64) / size**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).flatten(1) @ self.mixture


def jacobians(model: nn.Module, data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Parameter name -> ``[N, O, *shape]``."""
    each = [one_by_one(model, lambda o, y, c=c: o[:, c], data) for c in range(OUTPUTS)]
    return {name: torch.stack([one[name] for one in each], dim=1) for name in each[0]}


def literal(found: dict[str, Tensor], weights: dict[str, Tensor] | None) -> Tensor:
    total = 0.0
    for name, jacobian in found.items():
        rows = jacobian.flatten(2)
        scaled = rows if weights is None else rows * weights[name].flatten()
        total = total + torch.einsum("nop,nqp->noq", scaled, rows)
    return total


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_grams_of_every_layer(case: Case) -> None:
    model, _, data = case.make()
    model = Mixed(model, data[0]).eval()
    found = jacobians(model, data)
    weights = {name: torch.rand(j.shape[2:], dtype=torch.float64) for name, j in found.items()}
    before = {name: (b.clone(), b._version) for name, b in model.named_buffers()}
    for given in (None, weights):
        expected = literal(found, given)
        assert_close(output_grams(model, data, given, batch_size=4), expected)
        assert_close(output_grams(model, data, given, batch_size=1), expected)
    rows = torch.cat([found[name].flatten(2) for name, p in model.named_parameters() if p.requires_grad], dim=2)
    for size in (1, 4):
        assert_close(output_jacobians(model, data, batch_size=size), rows)
    assert all(torch.equal(b, before[n][0]) for n, b in model.named_buffers())
    assert all(p.grad is None and not p.is_inference() for p in model.parameters())


@pytest.fixture(scope="module")
def network():
    model, data = net(), images(7, seed=1)
    weights = {n: torch.rand_like(p).detach() + 0.1 for n, p in model.named_parameters()}
    return model, data, weights


def softened(outputs: Tensor, labels: Tensor) -> Tensor:
    """A loss that is no cross-entropy and not symmetric in the labels."""
    return (outputs.tanh() * torch.tensor([1.0, -2.0, 0.5], dtype=outputs.dtype)[labels][:, None]).exp().sum(1)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(reduction="none"), softened])
def test_every_label_of_any_loss(network, loss):
    model, data, weights = network
    with torch.no_grad():
        outputs = model(data.batch(range(7))[0])
    grams = output_grams(model, data, weights)
    for label in range(3):
        labels = torch.full((7,), label)
        leaf = outputs.clone().requires_grad_()
        (slopes,) = torch.autograd.grad(loss(leaf, labels).sum(), leaf)
        q = torch.einsum("no,nop,np->n", slopes, grams, slopes)
        assert torch.allclose(q, squared_norms(model, loss, data, weights, labels=labels), rtol=1e-8)


def test_directions_and_what_is_kept(network):
    model, data, weights = network
    grams = output_grams(model, data, weights)
    rows = torch.randn(7, 2, 3, dtype=torch.float64)
    seen = []

    def reduce(outputs, found, ids):
        seen.append((outputs, ids.tolist()))
        return found[:, 0, 1]

    kept = output_grams(model, data, weights, directions=lambda o, ids: rows[ids], reduce=reduce, batch_size=3)
    assert torch.allclose(kept, torch.einsum("no,nop,np->n", rows[:, 0], grams, rows[:, 1]), rtol=1e-10)
    assert [ids for _, ids in seen] == [[0, 1, 2], [3, 4, 5], [6]]
    with torch.no_grad():
        assert torch.allclose(torch.cat([o for o, _ in seen]), model(data.batch(range(7))[0]), atol=1e-12)


def test_chosen_parameters_and_masks(network):
    model, data, weights = network
    some = {"0.weight": torch.rand(3, 1, 3, 3) < 0.5, "4.bias": torch.ones(3, dtype=torch.bool)}
    found = jacobians(model, data.batch(range(7)))
    masked = {name: weights[name] * mask for name, mask in some.items()}
    expected = literal({name: found[name] for name in some}, masked)
    assert_close(output_grams(model, data, weights, parameters=some), expected)
    rows = torch.cat([(found[name] * mask).flatten(2) for name, mask in some.items()], dim=2)
    assert_close(output_jacobians(model, data, parameters=some), rows)
    assert_close(output_grams(model, data, parameters=["4.bias"]), literal({"4.bias": found["4.bias"]}, None))


def test_a_softmax_at_the_end_does_not_hide_the_gradients_from_the_probe(network):
    model, data, _ = network
    model = nn.Sequential(net(), nn.Softmax(1)).eval()
    assert_close(output_grams(model, data), literal(jacobians(model, data.batch(range(7))), None))


def test_refusals(network):
    model, data, weights = network
    with pytest.raises(ValueError, match=r"weights of '1.bias' are none, expected \(3,\)"):
        output_grams(model, data, {n: w for n, w in weights.items() if n != "1.bias"})
    with pytest.raises(ValueError, match=r"weights of '4.bias' are \(4,\), expected \(3,\)"):
        output_grams(model, data, weights | {"4.bias": torch.ones(4)})
    with pytest.raises(GradientError, match=r"outputs \(\) for one sample"):
        output_grams(Summed(), (normal(3)(4), torch.zeros(4)))


class Summed(nn.Module):
    """One number for a whole batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1).double()

    def forward(self, x):
        return self.layer(x).sum()


def test_outputs_with_more_axes_are_rows():
    torch.manual_seed(0)
    linear, data = nn.Linear(3, 3).double().eval(), (normal(2, 3)(4), torch.zeros(4))
    expected = output_grams(nn.Sequential(linear, nn.Flatten()).eval(), data)
    assert expected.shape == (4, 6, 6)
    assert torch.allclose(output_grams(linear, data), expected, rtol=1e-12, atol=1e-12)
