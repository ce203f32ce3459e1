"""Coverage is exact, and so are the scores of what it says fell back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from influence_core.gradients import Gradients, coverage, inner_products, sweep
from tests.cases import CASES, STRUCTURES, ScaledInside
from tests.references import assert_close, flat, one_by_one

FALLEN = {
    "tied through a function": {"embed.weight"},
    "bare parameter": {"scale"},
    "bare parameter inside": {"scaled.scale"},
    "functional use": {"conv.weight", "conv.bias", "linear.weight", "linear.bias"},
    "parametrised": {"0.parametrizations.weight.original0", "0.parametrizations.weight.original1"},
    "prelu": {"1.weight"},
    "transposed convolution": {"weight", "bias"},
    "recurrent": {"rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_ih_l0", "rnn.bias_hh_l0"},
}


@pytest.mark.parametrize("case", [case for case in STRUCTURES if case.fallback], ids=lambda case: case.name)
def test_shares(case) -> None:  # type: ignore[no-untyped-def]
    model, loss, data = case.make()
    expected = one_by_one(model, loss, data)
    consumer = Gradients()
    found = sweep(model, loss, data, [consumer], batch_size=4).coverage
    fallen = FALLEN[case.name]
    assert set(found.fallback) == fallen
    assert set(found.rules) == set(expected) - fallen
    assert all(found.fallback.values()), "every fallback has a reason"
    sizes = {name: gradient[0].numel() for name, gradient in expected.items()}
    share = sum(sizes[name] for name in fallen) / sum(sizes.values())
    assert found.by_fallback == pytest.approx(share)
    assert found.by_rule == pytest.approx(1 - share)
    assert_close(flat(consumer.result()), flat(expected))
    right = tuple(part[:3] for part in data)
    assert_close(inner_products(model, loss, data, right, batch_size=4), flat(expected) @ flat(expected)[:3].T)


def test_everything_by_rules() -> None:
    model, loss, data = next(case for case in CASES if case.name == "resnet18").make()
    found = sweep(model, loss, data, []).coverage
    assert found.by_rule == 1.0
    assert found.share == 1.0
    assert not found.fallback


def test_without_data() -> None:
    found = coverage(ScaledInside())
    assert set(found.fallback) == {"scaled.scale"}
    assert found.norm_selected is None
    assert found.by_fallback == pytest.approx(4 / (20 + 4 + 20 + 10))
    assert "no rule for scale of Scaled" in found.fallback["scaled.scale"]


def test_a_subclass_with_its_own_forward_has_no_rule() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    class Renamed(nn.Linear):
        pass

    assert set(coverage(Doubled(2, 2)).fallback) == {"weight", "bias"}
    assert not coverage(Renamed(2, 2)).fallback
    model, data = nn.Sequential(Doubled(2, 2), nn.Tanh()), (torch.randn(4, 2), torch.zeros(4))
    consumer = Gradients()
    loss = lambda outputs, labels: outputs.square().sum(1)  # noqa: E731
    sweep(model, loss, data, [consumer])
    assert_close(flat(consumer.result()), flat(one_by_one(model, loss, data)), 1e-5)
