"""The comparisons of the oracle tests notice what they are there to notice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from influence_core.gradients import Gradients, inner_products, squared_norms, sweep
from influence_core.gradients.forms import Convolution, Dense, Outer
from influence_core.gradients.rules import linear, registry
from tests.cases import CASES
from tests.references import assert_close, flat, one_by_one


def case(name: str):  # type: ignore[no-untyped-def]
    return next(case for case in CASES if case.name == name).make()


def test_no_case_has_gradients_of_zero() -> None:
    for each in CASES:
        model, loss, data = each.make()
        gradients = one_by_one(model, loss, data)
        empty = {name for name, gradient in gradients.items() if not gradient.any()}
        not_used = {name for name in empty if name.split(".")[0] in ("unused", "uncalled", "wide_key", "wide_value")}
        assert empty == not_used, (each.name, empty)


def test_a_ghost_product_off_by_a_little_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model, loss, data = case("linear wide")
    expected = flat(one_by_one(model, loss, data))
    right = Outer.gram
    monkeypatch.setattr(Outer, "gram", lambda self, other: right(self, other) * (1 + 1e-8))
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(inner_products(model, loss, data, data), expected @ expected.T)


def test_a_missing_shift_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model, loss, data = case("conv2d few positions")
    expected = flat(one_by_one(model, loss, data))
    assert_close(inner_products(model, loss, data, data), expected @ expected.T)
    monkeypatch.setattr(Convolution, "_shifted", lambda self, gram, other: gram)
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(inner_products(model, loss, data, data), expected @ expected.T)


def test_a_wrong_rule_is_caught_by_the_probe_and_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(layer, call, wanted):  # type: ignore[no-untyped-def]
        for name, form in linear.linear(layer, call, wanted):
            yield name, Dense(form.layout.unflatten(form.rows()).flip(0))

    model, loss, data = case("mixer")
    entry = registry._ENTRIES[torch.nn.Linear]
    monkeypatch.setitem(registry._ENTRIES, torch.nn.Linear, registry.Entry(swapped, entry.parameters, True))
    consumer = Gradients()
    report = sweep(model, loss, data, [consumer])
    assert "head.weight" in report.coverage.fallback
    assert_close(flat(consumer.result()), flat(one_by_one(model, loss, data)))


def test_forgotten_cross_terms_are_seen() -> None:
    model, loss, data = case("used twice")
    norms = squared_norms(model, loss, data)
    gradients: list[Tensor] = []
    x, y = data
    for index in range(len(x)):
        hidden = torch.tanh(model.layer(x[index : index + 1])).detach()
        value = loss(model.layer(hidden), y[index : index + 1])[0]
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))]))
    last_use_only = torch.stack(gradients).square().sum(1)
    assert not torch.allclose(norms, last_use_only, rtol=1e-3)
