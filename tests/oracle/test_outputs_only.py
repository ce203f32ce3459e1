"""Scores of outputs alone against what their definitions give, image by image."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import influence_core as ic
from influence_core.estimators import AreaUnderMargin, PriorMargin, label_margins, true_frequencies
from tests.helpers import study
from tests.oracle.test_detection_baselines import EPOCHS, literally_trained, probabilities


@pytest.fixture(scope="module")
def small() -> ic.Study:
    return study()


def margins(rows: list[list[float]]) -> Tensor:
    """Of every label, by definition."""
    return torch.tensor(
        [[max(row[j] for j in range(len(row)) if j != k) - row[k] for k in range(len(row))] for row in rows],
        dtype=torch.float64,
    )


def test_the_margin_of_every_label() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(40, 5, dtype=torch.float64, generator=generator)
    outputs[0, 1] = outputs[0, 3] = 9.0  # two that are ahead alike
    prior = torch.tensor([0.1, 0.3, 0.2, 0.35, 0.05], dtype=torch.float64)
    target = torch.tensor([0.3, 0.1, 0.1, 0.1, 0.4], dtype=torch.float64)
    assert torch.equal(label_margins(outputs), margins(outputs.tolist()))
    corrected = outputs - prior.log() + target.log()
    assert torch.allclose(label_margins(outputs, prior, target), margins(corrected.tolist()), rtol=0, atol=1e-12)
    assert torch.allclose(label_margins(outputs, prior), margins((outputs - prior.log()).tolist()), rtol=0, atol=1e-12)
    logs = outputs.log_softmax(1)
    assert torch.allclose(label_margins(logs, prior), label_margins(outputs, prior), rtol=0, atol=1e-12)
    sure = label_margins(torch.tensor([[0.0, 1.0, 0.0]]).log())
    assert not sure.isnan().any()
    assert sure[0, 1] < -1e30


def test_true_frequencies_are_found_whatever_those_of_the_clean_images_are() -> None:
    """Of a model that errs in a known way; the sampling error of 40,000 images is below 0.01."""
    generator = torch.Generator().manual_seed(1)
    errs = torch.tensor([[0.8, 0.1, 0.1], [0.05, 0.9, 0.2], [0.15, 0.0, 0.7]], dtype=torch.float64)
    true = torch.tensor([0.06, 0.34, 0.6], dtype=torch.float64)

    def drawn(shares: list[float], count: int) -> tuple[Tensor, Tensor]:
        labels = torch.multinomial(torch.tensor(shares), count, replacement=True, generator=generator)
        said = torch.multinomial(errs.T[labels], 1, generator=generator)[:, 0]
        return torch.nn.functional.one_hot(said, 3).double(), labels

    outputs, _ = drawn(true.tolist(), 40_000)
    for shares in ([1 / 3, 1 / 3, 1 / 3], true.tolist(), [0.7, 0.2, 0.1]):
        known, labels = drawn(shares, 40_000)
        assert (true_frequencies(outputs, known, labels) - true).abs().max() < 0.02
    naive = outputs.mean(0)
    assert (naive - true).abs().max() > 0.05, "which plain predictions miss"


@pytest.mark.parametrize("target", ["uniform", "given"])
def test_the_prior_margin_of_new_models_is_that_of_their_mean(small: ic.Study, target: str) -> None:
    runs, seed = 3, 5
    p = torch.zeros(24, 3, dtype=torch.float64)
    for run in range(runs):
        trained = literally_trained(small, small.train, seed + run, 2)
        p += torch.tensor(probabilities(trained, small.train), dtype=torch.float64) / runs
    counts = [small.train.labels.tolist().count(k) for k in range(3)]
    prior = torch.tensor([(count + 1 / 3) / 25 for count in counts], dtype=torch.float64)
    corrected = p.log() - (prior.log() if target == "uniform" else 0)
    expected = margins(corrected.tolist())
    estimator = PriorMargin(
        source="early", runs=runs, seed=seed, epoch_share=2 / EPOCHS, min_epochs=1, target=target, tuned=False
    ).fit(small)
    assert torch.allclose(-estimator.label_influence().values.double(), expected, rtol=1e-9, atol=1e-9)
    given = expected[torch.arange(24), small.train.labels]
    assert torch.allclose(estimator.mislabel_scores().values.double(), given, rtol=1e-9, atol=1e-9)


def test_out_of_fold_no_model_has_seen_the_image(small: ic.Study) -> None:
    """A label that is changed does not move what is said of its image, and moves what is said of others."""
    estimator = PriorMargin(source="folds", folds=3, tuned=False, target="given", seed=2)
    before = estimator.fit(small).label_influence().values
    split = dict(enumerate(held for _, held in estimator._split(small.train.labels)))
    assert sorted(torch.cat([*split.values()]).tolist()) == list(range(24))
    for held in split.values():
        shares = [small.train.labels[held].tolist().count(k) for k in range(3)]
        assert max(shares) - min(shares) <= 2
    rest, held = estimator._split(small.train.labels)[0]
    model = literally_trained(small, small.train.subset(rest), 2, EPOCHS)
    said = torch.tensor(probabilities(model, small.train), dtype=torch.float64).log()
    assert torch.allclose(-before[held].double(), margins(said[held].tolist()), rtol=1e-9, atol=1e-9)


def test_area_under_the_margin_is_the_mean_over_the_moments_at_which_an_image_is_drawn(small: ic.Study) -> None:
    seen: dict[int, list[list[float]]] = {i: [] for i in range(24)}
    places = {tuple(small.train[i][0].flatten().tolist()): i for i in range(24)}

    def look(model, inputs, labels):
        with torch.no_grad():
            outputs = model(inputs)
        for x, z in zip(inputs, outputs.tolist(), strict=True):
            seen[places[tuple(x.flatten().tolist())]].append(z)

    literally_trained(small, small.train, 2, EPOCHS, look)
    expected = torch.stack([margins(seen[i]).mean(0) for i in range(24)])
    estimator = AreaUnderMargin(seed=2).fit(small)
    assert torch.allclose(-estimator.label_influence().values.double(), expected, rtol=1e-9, atol=1e-9)
    classic = []
    for i, label in enumerate(small.train.labels.tolist()):
        leads = [z[label] - max(z[k] for k in range(3) if k != label) for z in seen[i]]
        classic.append(-math.fsum(leads) / len(leads))
    found = estimator.mislabel_scores().values.double()
    assert torch.allclose(found, torch.tensor(classic, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_area_under_the_margin_of_checkpoints() -> None:
    small = study(epochs=6)
    assert small.trajectory is not None
    rows = [
        margins(torch.tensor(probabilities(small.at(one), small.train), dtype=torch.float64).log().tolist())
        for one in small.trajectory
    ]
    found = AreaUnderMargin(source="checkpoints").fit(small).label_influence().values
    assert torch.allclose(-found.double(), torch.stack(rows).mean(0), rtol=1e-9, atol=1e-9)
