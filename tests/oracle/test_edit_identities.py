"""What holds exactly of removals, new labels and new weights for any network, and dense formulas."""

from __future__ import annotations

import functools
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import influence_core as ic
from influence_core.estimators import (
    EKFAC,
    FIF,
    GIF,
    PIF,
    SAMGIF,
    SAMHIF,
    SAMIF,
    Arnoldi,
    ConjugateGradient,
    DataInf,
    LastLayer,
    LiSSA,
)
from influence_core.estimators.changes import DataChange, data_change
from tests.helpers import study as network_study
from tests.oracle.curvature_references import (
    dense_ggn,
    dense_hessian,
    gradients,
    relative,
    small_study,
    tensors,
    vector,
)

ADDITIVE = {
    "ConjugateGradient": partial(ConjugateGradient, tolerance=1e-12, max_iterations=2000),
    "LiSSA": partial(LiSSA, steps=20),
    "Arnoldi": partial(Arnoldi, steps=30),
    "EKFAC": EKFAC,
    "DataInf": DataInf,
    "LastLayer": LastLayer,
    "SAMIF": partial(SAMIF, tolerance=1e-12, max_iterations=2000),
    "SAMHIF": partial(SAMHIF, tolerance=1e-12, max_iterations=2000, damping=1.0),
    "SAMHIF paper": partial(SAMHIF, tolerance=1e-12, max_iterations=2000, damping=1.0, variant="paper"),
    "SAMGIF": SAMGIF,
    "SAMGIF sgd": partial(SAMGIF, form="sgd"),
}
EDITORS = {
    f"{cls.__name__} {by}": partial(cls, selector=by, scale=1.0, ratio=0.5)
    for cls in (GIF, FIF, PIF)
    for by in ("top_outputs", "top_gradients")
}
network = functools.cache(network_study)


@pytest.mark.filterwarnings("ignore:a change of the weights turns")
@pytest.mark.parametrize("name", ADDITIVE)
def test_a_mix_is_the_sum_of_its_parts(name):
    """A weight is a factor, a new label a removal and an addition, and all of it adds up."""
    study = network()
    fitted = ADDITIVE[name]().fit(study)

    def change(**asked: Any) -> Tensor:
        return vector(fitted.parameter_change(**asked))

    new = {4: (int(study.train.labels[4]) + 1) % 3, 9: (int(study.train.labels[9]) + 2) % 3}
    gone = {i: change(remove=[i]) for i in (1, 4, 9, 13)}
    added = {i: change(relabel={i: label}) - gone[i] for i, label in new.items()}
    assert min(float(a.norm()) for a in added.values()) > 1e-6
    assert relative(change(weight={13: 3.0}), -2 * gone[13]) < 1e-8
    assert relative(change(weight={13: 0.25}), 0.75 * gone[13]) < 1e-8
    assert relative(change(relabel={4: new[4]}, weight={4: 1.7}), gone[4] + 1.7 * added[4]) < 1e-8
    whole = change(remove=[1], relabel=new, weight={9: 0.5, 13: 3.0})
    parts = gone[1] + gone[4] + added[4] + gone[9] + 0.5 * added[9] - 2 * gone[13]
    assert relative(whole, parts) < 1e-8


@pytest.mark.filterwarnings("ignore:a change of the weights turns")
@pytest.mark.parametrize("name", ADDITIVE | EDITORS)
def test_a_weight_of_nothing_removes(name):
    """Also where a label is given that no longer matters; and what does not change plays no part."""
    study = network()
    fitted = (ADDITIVE | EDITORS)[name]().fit(study)
    given = int(study.train.labels[17])
    gone = fitted.parameter_change(remove=[2, 11])
    same = fitted.parameter_change([11], relabel={17: given, 2: 1}, weight={2: 0.0, 5: 1.0})
    assert same.keys() == gone.keys()
    assert relative(vector(same), vector(gone)) < 1e-10
    counts = ("removed", "relabelled", "reweighted")
    assert [gone.meta[c] for c in counts] == [same.meta[c] for c in counts] == [2, 0, 0]


def dense_terms(study: ic.Study, change: DataChange) -> Tensor:
    """The gradient of what is added to N times the mean loss, image by image."""
    before = gradients(study.model, study.loss, study.train)
    after = gradients(study.model, study.loss, study.train.with_labels(asked_labels(study, change)))
    weights = torch.ones(len(before), dtype=torch.float64)
    weights[change.ids] = change.weights
    return weights @ after - before.sum(0)


def asked_labels(study: ic.Study, change: DataChange) -> Tensor:
    labels = study.train.labels.clone()
    labels[change.ids] = change.labels
    return labels


MIX = {"remove": [3, 20], "relabel": {5: 0, 11: 1, 7: 2, 8: 2}, "weight": {11: 2.5, 12: 0.25, 13: 3.0}}
LABELS = {"relabel": MIX["relabel"]}


def test_influence_functions_of_a_network_are_dense():
    study = small_study(1)
    change = data_change(study.train, 3, **MIX)
    fitted = ConjugateGradient(tolerance=1e-12).fit(study)
    dense = dense_ggn(study.model, study.loss, tensors(study.train))
    found = fitted.parameter_change(**MIX)
    dense += (study.weight_decay + found.meta["damping"]) * torch.eye(len(dense), dtype=dense.dtype)
    assert relative(vector(found), -torch.linalg.solve(dense, dense_terms(study, change)) / 30) < 1e-8


@pytest.mark.parametrize("cls", [GIF, FIF, PIF])
@pytest.mark.parametrize(("asked", "damping"), [(MIX, 0.0), (MIX, 0.3), (LABELS, 0.0)], ids=["mix", "damped", "labels"])
def test_edits_of_a_network_are_dense(cls, asked, damping):
    """H of the loss that is left, with its labels, weights and weight decay, per image that stays."""
    study = small_study(1)
    change = data_change(study.train, 3, **asked)
    generator = torch.Generator().manual_seed(3)
    masks = {n: torch.rand(p.shape, generator=generator) < 0.4 for n, p in study.model.named_parameters()}
    chosen = vector(masks)
    made = cls(selector=masks, damping=damping, scale=1.0, tolerance=1e-14, max_iterations=400)
    found = vector(made.fit(study).parameter_change(**asked))
    weights = torch.ones(30, dtype=torch.float64)
    weights[change.ids] = change.weights
    left = int((weights > 0).sum())
    after = tensors(study.train.with_labels(asked_labels(study, change)))

    def weighted(outputs: Tensor, labels: Tensor) -> Tensor:
        return study.loss(outputs, labels) * weights * 30 / left

    hessian = dense_hessian(study.model, weighted, after)
    hessian += study.weight_decay * 30 / left * torch.eye(len(hessian), dtype=hessian.dtype)
    target = -dense_terms(study, change) / left
    matrix = {GIF: hessian[:, chosen], FIF: hessian[chosen][:, chosen], PIF: hessian}[cls]
    right = matrix.T @ (target[chosen] if cls is FIF else target)
    square = matrix.T @ matrix + damping**2 * torch.eye(matrix.shape[1], dtype=matrix.dtype)
    expected = torch.linalg.solve(square, right)
    assert left == 30 - len(asked.get("remove", []))
    assert relative(found[chosen], expected[chosen] if cls is PIF else expected) < 1e-6
    assert not found[~chosen].any()
