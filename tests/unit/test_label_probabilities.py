"""How likely labels are wrong: mixtures, reliability, and what a budget is expected to find."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import influence_core as ic
from influence_core.applications import budgets, detect, mixture, reliability
from tests.helpers import images, net

N = 60


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scores_of(values: Tensor, scale: str = "rank only") -> ic.Scores:
    return ic.Scores(values, torch.arange(len(values)), "mislabel", scale=scale)


@pytest.fixture(scope="module")
def study() -> ic.Study:
    train = images(N, seed=1, noise=0.4)
    return ic.Study(net(), train, images(9, seed=2))


def test_a_mixture_of_two_normal_distributions_is_found() -> None:
    """Against Bayes' rule with the true parameters; 20,000 draws."""
    upper = torch.rand(20_000, generator=seeded(0)) < 0.3
    x = torch.randn(20_000, dtype=torch.float64, generator=seeded(1)) * torch.where(upper, 0.7, 1.0) + 4.0 * upper
    high = 0.3 / 0.7 * torch.exp(-((x - 4) ** 2) / (2 * 0.49))
    low = 0.7 * torch.exp(-(x**2) / 2)
    inside = (x > 0) & (x < 4)
    assert (mixture(x) - high / (high + low))[inside].abs().max() < 0.05
    assert torch.allclose(mixture(5 + 3 * x), mixture(x), atol=1e-3), "a unit and a zero do not matter"


def test_a_larger_score_never_has_a_smaller_probability() -> None:
    for seed in range(5):
        x = torch.cat([torch.randn(300, generator=seeded(seed)), 6 + 0.1 * torch.randn(60, generator=seeded(seed + 9))])
        p = mixture(x)
        assert bool((p[x.sort().indices].diff() >= 0).all())
        assert bool(((p >= 0) & (p <= 1)).all())
        assert p[x.argmax()] > 0.9
        assert p[x.argmin()] < 0.1
        tail = mixture(x.exp())
        assert bool((tail[x.sort().indices].diff() >= 0).all())


@pytest.mark.parametrize("values", [torch.zeros(9), torch.tensor([1.0, 2.0]), torch.arange(3.0)])
def test_nothing_is_suspected_where_there_are_no_two_groups(values: Tensor) -> None:
    assert mixture(values).tolist() == [0.0] * len(values)


def test_one_score_apart_is_a_group() -> None:
    assert mixture(torch.tensor([0.0, 0.1, 0.2, 0.1, 9.0])).tolist() == [0, 0, 0, 0, 1]


def test_reliability_is_counted_by_hand() -> None:
    p = torch.tensor([0.05, 0.15, 0.12, 0.95, 1.0, 0.0])
    happened = torch.tensor([False, True, False, True, True, False])
    found = reliability(p, happened, bins=10)
    table = found.table.set_index("low")
    assert table["count"].to_dict() == {0.0: 2, 0.1: 2, 0.9: 2}
    assert table["happened"].to_dict() == {0.0: 0.0, 0.1: 0.5, 0.9: 1.0}
    assert table["said"].tolist() == pytest.approx([0.025, 0.135, 0.975])
    assert found.error == pytest.approx((2 * 0.025 + 2 * 0.365 + 2 * 0.025) / 6)
    assert found.brier == pytest.approx(float((p.double() - happened.double()).square().mean()))
    low, high = table.loc[0.1, ["happened_low", "happened_high"]]
    assert (low, high) == pytest.approx((0.0945, 0.9055), abs=1e-4), "Wilson's interval of 1 of 2"
    assert "6 images" in found._repr_html_()


def test_true_probabilities_have_a_small_error_and_turned_ones_a_large_one() -> None:
    p = torch.rand(20_000, dtype=torch.float64, generator=seeded(2))
    happened = torch.rand(20_000, dtype=torch.float64, generator=seeded(3)) < p
    assert reliability(p, happened).error < 0.02
    assert reliability(1 - p, happened).error > 0.4


@pytest.mark.parametrize(
    ("p", "bins", "words"),
    [
        ([], 10, "0 probabilities"),
        ([1.5, 0.0], 10, "from 0 to 1"),
        ([0.5, float("nan")], 10, "0 to 1"),
        ([0, 1], 0, "bins"),
    ],
)
def test_what_is_no_probability_is_refused(p: list[float], bins: int, words: str) -> None:
    with pytest.raises(ic.InvalidInput, match=words):
        reliability(torch.tensor(p), torch.zeros(len(p), dtype=torch.bool), bins)


def test_what_a_budget_is_expected_to_find(study: ic.Study) -> None:
    p = torch.linspace(0, 1, N, dtype=torch.float64)
    found = detect(study, scores_of(p, "probability"))
    assert found.threshold == 0.5
    assert found.quality.source == "planted flips"
    assert torch.equal(found.probabilities, p)
    for count in (1, 7, 30):
        assert found.budget(count).expected_precision == pytest.approx(float(p[-count:].mean()))
    assert found.budget(0).expected_precision is None
    part = found.within([50, 3, 20])
    assert torch.equal(part.probabilities, p[[3, 20, 50]]), "of a class: as in the whole set, not fitted anew"
    assert found.corrupted is not None
    assert found.reliability().error == reliability(p, found.corrupted).error
    assert found.reliability(4).figure((0.5, 0.25)) == ic.figures.reliability(found.reliability(4), (0.5, 0.25))
    guessed = detect(study, scores_of(p))
    assert guessed.quality.source == "mixture"
    assert torch.equal(guessed.probabilities, mixture(p))
    assert torch.equal(guessed.within(range(9)).probabilities, mixture(p)[:9])
    assert "two normal distributions" in guessed._repr_html_()


def test_budgets_are_counted_by_hand(study: ic.Study) -> None:
    p = torch.linspace(0, 1, N, dtype=torch.float64)
    p[30:34] = p[33]  # which no threshold can tell apart
    found = detect(study, scores_of(p, "probability"))
    assert found.corrupted is not None
    table = budgets(found.budget(7), [2, 28, 40])
    assert table["images"].tolist() == [2, 7, 26, 40], "the flags are among them; of 28, two of four are none"
    for count, expected, true in table.itertuples(index=False):
        assert expected == pytest.approx(float(p.sort().values[-int(count) :].mean()))
        assert true == pytest.approx(float(found.corrupted[p.argsort(stable=True)[-int(count) :]].double().mean()))
    assert budgets(found.budget(7))["images"].tolist() == [7, 20], "round numbers up to half of them"
    assert budgets(found.budget(0), []).empty
    assert budgets(found.within(range(9)))["images"].tolist() == []
    unknown = study.replaced(train=ic.data.LabelledDataset(study.train.base, name="train"))
    assert "true" not in budgets(detect(unknown, scores_of(p, "probability")))
    with pytest.raises(ic.InvalidInput, match="whole number"):
        budgets(found, [N + 1])


def test_reliability_needs_the_truth(study: ic.Study) -> None:
    unknown = study.replaced(train=ic.data.LabelledDataset(study.train.base, name="train"))
    assert unknown.train.true_labels is None
    with pytest.raises(ic.NotSupported, match="true labels are not known"):
        detect(unknown, scores_of(torch.rand(N))).reliability()


def test_the_figure_marks_the_flags(study: ic.Study) -> None:
    found = detect(study, scores_of(torch.rand(N, generator=seeded(1)), "probability"))
    figure = ic.figures.reliability(found.reliability(), (0.4, 0.5))
    table = found.reliability().table
    assert np.allclose(figure.data[1].x, table["said"])
    assert np.allclose(figure.data[1].y, table["happened"])
    assert (figure.data[2].x[0], figure.data[2].y[0]) == (0.4, 0.5)
    assert len(ic.figures.reliability(found.reliability()).data) == 2
