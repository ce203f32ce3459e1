"""Everything the engine computes, against one backward pass per sample."""

from __future__ import annotations

import pytest
import torch

from influence_core.gradients import (
    Gradients,
    InnerProducts,
    MeanGradient,
    MeanSquares,
    Queries,
    inner_products,
    squared_norms,
    sweep,
)
from tests.cases import CASES, Case
from tests.references import assert_close, flat, one_by_one

pytestmark = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def test_gradients_and_moments(case: Case) -> None:
    model, loss, data = case.make()
    expected = one_by_one(model, loss, data)
    consumers = [Gradients(), MeanGradient(), MeanSquares()]
    report = sweep(model, loss, data, consumers, batch_size=4)
    found, mean, squares = (consumer.result() for consumer in consumers)
    assert list(found) == list(expected)
    assert_close(flat(found), flat(expected))
    assert_close(torch.cat([g.flatten() for g in mean.values()]), flat(expected).mean(0))
    assert_close(torch.cat([g.flatten() for g in squares.values()]), flat(expected).square().mean(0))
    assert (report.coverage.by_fallback > 0) == case.fallback, report.coverage.fallback


def test_moments_without_explicit_gradients(case: Case) -> None:
    model, loss, data = case.make()
    expected = flat(one_by_one(model, loss, data))
    mean, squares = MeanGradient(), MeanSquares()
    sweep(model, loss, data, [mean], batch_size=4)
    sweep(model, loss, data, [squares], batch_size=4)
    assert_close(torch.cat([g.flatten() for g in mean.result().values()]), expected.mean(0))
    assert_close(torch.cat([g.flatten() for g in squares.result().values()]), expected.square().mean(0))


def test_inner_products_and_norms(case: Case) -> None:
    model, loss, data = case.make()
    expected = flat(one_by_one(model, loss, data))
    right = tuple(part[1:4] for part in data)
    assert_close(inner_products(model, loss, data, right, batch_size=4), expected @ expected[1:4].T)
    assert_close(squared_norms(model, loss, data, batch_size=4), expected.square().sum(1))


def test_inner_products_with_vectors(case: Case) -> None:
    model, loss, data = case.make()
    gradients = one_by_one(model, loss, data)
    vectors = {name: torch.randn_like(g[:3]) for name, g in gradients.items()}
    consumer = InnerProducts(Queries.from_vectors(vectors))
    sweep(model, loss, data, [consumer], batch_size=4)
    assert_close(consumer.result(), flat(gradients) @ flat(vectors).T)


def test_diagonal_metric(case: Case) -> None:
    model, loss, data = case.make()
    gradients = one_by_one(model, loss, data)
    weights = {name: torch.rand_like(g[0]) for name, g in gradients.items()}
    expected = sum((weights[name] * g.square()).flatten(1).sum(1) for name, g in gradients.items())
    assert_close(squared_norms(model, loss, data, weights, batch_size=4), expected)


@pytest.mark.parametrize("ghost", [True, False], ids=["ghost", "explicit"])
def test_both_ways_of_inner_products(case: Case, ghost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the cost model would choose, both ways give the same."""
    monkeypatch.setattr(
        "influence_core.gradients.queries.prefers_ghost", lambda costs, queries: ghost and costs.pair is not None
    )
    model, loss, data = case.make()
    expected = flat(one_by_one(model, loss, data))
    assert_close(inner_products(model, loss, data, data, batch_size=4), expected @ expected.T)


@pytest.mark.parametrize("batch_size", [1, 7, None])
def test_batch_size_does_not_matter(case: Case, batch_size: int | None) -> None:
    model, loss, data = case.make(samples=9)
    whole = inner_products(model, loss, data, data, batch_size=9)
    assert_close(inner_products(model, loss, data, data, batch_size=batch_size), whole)
    norms = squared_norms(model, loss, data, batch_size=batch_size)
    assert_close(norms, squared_norms(model, loss, data, batch_size=9))
