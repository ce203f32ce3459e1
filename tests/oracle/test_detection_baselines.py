"""Detection baselines against literal loops: trainings written out, neighbours searched one by one, folds by hand."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from influence_core.estimators import EL2N, ConfidentLearning, DeepKNN, Forgetting
from influence_core.study import Study
from influence_core.training import reinitialised
from tests.helpers import LiteralSGD, drawn_batches, study

EPOCHS, BATCH, RATE, RHO, DECAY = 4, 8, 0.05, 0.05, 1e-3
"""The recipe of the study of the tests; momentum 0.9 is the default of ``fit``."""


@pytest.fixture(scope="module")
def small() -> Study:
    found = study()
    recipe = found.trajectory.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.rho) == (EPOCHS, BATCH, RATE, RHO)
    assert recipe.weight_decay == DECAY
    return found


def literally_trained(study: Study, data, seed: int, epochs: int, look=None) -> nn.Module:
    """SAM from new weights; ``look(model, inputs, labels)`` is called before each step."""
    model = reinitialised(study.model, seed).train()
    optimiser = LiteralSGD(model, momentum=0.9, weight_decay=DECAY, rho=RHO)
    batches = drawn_batches(data, BATCH, seed)
    steps = epochs * math.ceil(len(data) / BATCH)
    for i in range(steps):
        inputs, labels = next(batches)
        if look is not None:
            look(copy.deepcopy(model), inputs, labels)
        optimiser.step(inputs, labels, RATE * (1 + math.cos(math.pi * i / steps)) / 2)
    return model.eval()


def probabilities(model: nn.Module, data) -> list[list[float]]:
    rows = []
    with torch.no_grad():
        for i in range(len(data)):
            weights = [math.exp(z) for z in model(data[i][0][None])[0].tolist()]
            rows.append([w / sum(weights) for w in weights])
    return rows


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize(
    ("share", "least", "epochs"), [(0.5, 1, 2), (0.01, 1, 1), (0.1, 3, 3), (0.1, 9, 4), (2.0, 1, 8)]
)
def test_el2n(small, squared, share, least, epochs):
    expected = [0.0] * 24
    for run in range(3):
        p = probabilities(literally_trained(small, small.train, 5 + run, epochs), small.train)
        for i, label in enumerate(small.train.labels.tolist()):
            square = sum((p[i][k] - (k == label)) ** 2 for k in range(3))
            expected[i] += (square if squared else math.sqrt(square)) / 3
    found = EL2N(runs=3, epoch_share=share, min_epochs=least, squared=squared, seed=5)
    found = found.fit(small).mislabel_scores().values
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9)


def events(looks: dict[int, list[bool]]) -> Tensor:
    """Right then wrong, counted in a list of looks per image; images that were never right come last."""
    counts = {i: sum(a and not b for a, b in itertools.pairwise(seen)) for i, seen in looks.items()}
    most = max(counts.values())
    return torch.tensor([counts[i] if any(looks[i]) else most + 1 for i in range(len(looks))], dtype=torch.float64)


@pytest.mark.parametrize(("times", "all_learned"), [(6, True), (1, False)])
def test_forgetting_is_counted_whenever_an_image_is_drawn(small, times, all_learned):
    looks: dict[int, list[bool]] = {i: [] for i in range(24)}
    places = {tuple(small.train[i][0].flatten().tolist()): i for i in range(24)}

    def look(model, inputs, labels):
        with torch.no_grad():
            outputs = model(inputs)  # in training mode: of the batch as a whole
        for x, z, label in zip(inputs, outputs.tolist(), labels.tolist(), strict=True):
            looks[places[tuple(x.flatten().tolist())]].append(z.index(max(z)) == label)

    literally_trained(small, small.train, 2, times * EPOCHS, look)
    expected = events(looks)
    assert {len(seen) for seen in looks.values()} == {times * EPOCHS}
    assert len(expected.unique()) > 2
    assert all(any(seen) for seen in looks.values()) == all_learned
    found = Forgetting(epoch_share=float(times), seed=2).fit(small).mislabel_scores().values
    assert torch.equal(found, expected)


def test_forgetting_from_checkpoints():
    small = study(epochs=12)
    looks: dict[int, list[bool]] = {i: [] for i in range(24)}
    for checkpoint in small.trajectory:
        p = probabilities(small.at(checkpoint), small.train)
        for i, label in enumerate(small.train.labels.tolist()):
            looks[i].append(p[i].index(max(p[i])) == label)
    found = Forgetting(source="checkpoints").fit(small).mislabel_scores().values
    assert torch.equal(found, events(looks))
    assert len(found.unique()) > 1


def votes(rows: Tensor, labels: list[int], k: int) -> list[list[float]]:
    found = []
    for i in range(len(rows)):
        far = sorted((math.dist(rows[i].tolist(), rows[j].tolist()), j) for j in range(len(rows)) if j != i)
        near = [labels[j] for _, j in far[:k]]
        found.append([near.count(label) / k for label in range(3)])
    return found


@pytest.mark.parametrize("layer", ["logits", "penultimate"])
@pytest.mark.parametrize(("k", "last"), [(None, 5), (3, 2)])
def test_deep_knn(small, layer, k, last):
    labels = small.train.labels.tolist()
    inputs, _ = small.train.batch(range(24))
    expected, share = torch.zeros(24, dtype=torch.float64), torch.zeros(24, 3, dtype=torch.float64)
    checkpoints = small.trajectory.checkpoints[-last:]
    assert len(checkpoints) == min(last, 4)
    for checkpoint in checkpoints:
        model = small.at(checkpoint)
        with torch.no_grad():
            rows = (model if layer == "logits" else model[:4])(inputs)
        for i, vote in enumerate(votes(rows, labels, k or 8)):  # 24 images of 3 classes
            expected[i] += sum((v - (label == labels[i])) ** 2 for label, v in enumerate(vote)) / len(checkpoints)
            share[i] += torch.tensor(vote, dtype=torch.float64) / len(checkpoints)
    estimator = DeepKNN(k=k, layer=layer, last=last).fit(small)
    assert torch.allclose(estimator.mislabel_scores().values, expected, rtol=1e-12, atol=1e-14)
    assert torch.allclose(estimator.label_influence().values, share, rtol=1e-12, atol=1e-14)


def out_of_fold(small: Study, folds: int, seed: int) -> Tensor:
    """Probabilities of each image by a model trained on the other folds."""
    labels = small.train.labels.tolist()
    split = pytest.importorskip("sklearn.model_selection").StratifiedKFold(folds, shuffle=True, random_state=seed)
    found = torch.full((24, 3), float("nan"), dtype=torch.float64)
    for fold, (_, held_out) in enumerate(split.split([[0]] * 24, labels)):
        rest = [i for i in range(24) if i not in set(held_out.tolist())]
        model = literally_trained(small, small.train.subset(rest), seed + fold, EPOCHS)
        p = probabilities(model, small.train)
        for i in held_out.tolist():
            found[i] = torch.tensor(p[i], dtype=torch.float64)
    return found


@pytest.mark.parametrize("method", ["self_confidence", "normalized_margin", "confidence_weighted_entropy"])
def test_confident_learning(small, method):
    rank, find = pytest.importorskip("cleanlab.rank"), pytest.importorskip("cleanlab.filter")
    p, labels = out_of_fold(small, 3, seed=4), small.train.labels
    quality = rank.get_label_quality_scores(labels.numpy(), p.numpy(), method=method)
    flags = find.find_label_issues(labels.numpy(), p.numpy(), filter_by="confident_learning", n_jobs=1)
    estimator = ConfidentLearning(folds=3, method=method, seed=4).fit(small)
    scores = estimator.mislabel_scores()
    assert torch.allclose(scores.values, 1 - torch.from_numpy(quality).double(), rtol=1e-9, atol=1e-12)
    assert torch.allclose(estimator.label_influence().values, p.log(), rtol=1e-9)
    assert scores.meta["label_issues"] == flags.sum() > 0
    assert estimator.flagged_.tolist() == flags.tolist()


def test_every_image_is_scored_by_a_model_that_never_saw_it(small):
    """With two folds as in the GEX comparison, whose code leaves the first half at a constant."""
    p = out_of_fold(small, 2, seed=0)
    scores = ConfidentLearning().fit(small).mislabel_scores().values
    for i, label in enumerate(small.train.labels.tolist()):
        assert scores[i] == pytest.approx(1 - float(p[i, label]), rel=1e-9)
    assert len(scores.unique()) == 24
    seen = probabilities(literally_trained(small, small.train, 0, EPOCHS), small.train)
    assert not any(float(s) == pytest.approx(1 - seen[i][int(small.train.labels[i])]) for i, s in enumerate(scores))
