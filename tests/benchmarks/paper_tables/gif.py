"""Generalized influence functions: Tables 1, 2 and 3, and Figure 3."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.curvature import Hessian
from influence_core.data import LabelledDataset
from influence_core.estimators.edits.scale import validated_scale
from influence_core.losses import cross_entropy
from influence_core.models import model_outputs
from tests.benchmarks.editing import edited
from tests.benchmarks.paper_tables.shared import Case, Cells, Rows

CLASS, TARGET, PLANTED = 8, 4, 0.3
"""The class that is removed; the label of the trigger, and the share of training images that have it."""


def _removal(study: ic.Study, **settings: object) -> Cells:
    removed = (study.train.labels == CLASS).nonzero().flatten()
    estimator = ic.estimators.get(settings.pop("name"), scale=1.0, **settings)  # type: ignore[arg-type]
    own, test, f1, _, seconds = edited(study, estimator, removed, CLASS)
    return {"still predicted": 100 * own, "test accuracy": 100 * test, "F1": 100 * f1, "seconds": seconds}


def table1(case: Case) -> Rows:
    study = case.study()
    for ratio in (0.05, 0.1, 0.3, 0.5):
        for selector in ("top_outputs", "top_gradients", "threshold", "random"):
            yield f"{selector}, {ratio:.0%}", _removal(study, name="gif", selector=selector, ratio=ratio)


def table2(case: Case) -> Rows:
    study = case.study()
    for ratio in (0.1, 0.3, 0.5):
        for name in ("gif", "fif", "pif"):
            yield f"{name.upper()}, {ratio:.0%}", _removal(study, name=name, ratio=ratio)


def triggered(inputs: Tensor) -> Tensor:
    """Images [N, 1, 8, 8] in 0..1 with a faint chequerboard over them."""
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    return (inputs + 0.25 * board).clamp(0, 1)


def backdoored(seed: int) -> tuple[ic.Study, Tensor]:
    """A study with the trigger in some of its training images, which are called 4, and their ids."""
    splits = ic.data.digits(0.0, seed)
    inputs, labels = splits.train.batch(range(len(splits.train)))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    planted = order[: round(PLANTED * len(labels))].sort().values
    seen, given = inputs.clone(), labels.clone()
    seen[planted], given[planted] = triggered(inputs[planted]), TARGET
    train = LabelledDataset(TensorDataset(seen, given), true_labels=labels, name="train")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ic.models.build("small_cnn", channels=1, classes=10)
        trajectory = ic.training.fit(model, train, seed=seed, **ic.demo.RECIPE)
    return ic.Study(model, train, splits.test, splits.validation, trajectory, weight_decay=5e-4), planted


def _recovered(study: ic.Study, model: torch.nn.Module) -> Cells:
    """Accuracy on test images with the trigger, by the trigger's label and by the true one, and without it."""
    inputs, labels = study.test.batch(range(len(study.test)))
    seen = LabelledDataset(TensorDataset(triggered(inputs), labels), name="test")
    told = model_outputs(model, seen).argmax(1)
    plain = model_outputs(model, study.test).argmax(1)
    hits = {"trigger, its label": told == TARGET, "trigger, true label": told == labels, "test": plain == labels}
    return {name: 100 * float(hit.double().mean()) for name, hit in hits.items()}


def table3(case: Case) -> Rows:
    study, planted = backdoored(case.seed)
    assert study.train.true_labels is not None
    yield "backdoored", _recovered(study, study.model)
    right = {int(i): int(study.train.true_labels[i]) for i in planted if study.train.true_labels[i] != TARGET}
    for ratio in (0.1, 0.3, 0.5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an edit that does no better is in the table
            estimator = ic.estimators.GIF(ratio=ratio, scale=1.0).fit(study)
            change = estimator.parameter_change(relabel=right)
        scale = validated_scale(study, change, torch.tensor([], dtype=torch.long), right)[0]
        model = study.edited({name: scale * delta for name, delta in change.items()}).model
        yield f"GIF, {ratio:.0%}", _recovered(study, model)
    mended = study.train.with_labels(study.train.true_labels)
    again = ic.training.train_fresh(study.model, mended, study.trajectory.recipe, seed=case.seed)  # type: ignore[union-attr]
    yield "retrained with true labels", _recovered(study, again)


def figure3(case: Case) -> Rows:
    """Negative among the 500 eigenvalues of largest size, of the penalised loss at the weights trained with it."""
    splits = ic.data.digits(case.noise, case.seed)
    for decay in (0.0, 1e-4, 1e-3, 1e-2, 1e-1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(case.seed)
            model = torch.nn.Sequential(
                torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10)
            )
            ic.training.fit(model, splits.train, epochs=30, weight_decay=decay, seed=case.seed)
        values = torch.linalg.eigvalsh(Hessian(model, cross_entropy, splits.train, weight_decay=decay).dense().double())
        largest = values[values.abs().argsort(descending=True)[:500]]
        right = model_outputs(model, splits.test).argmax(1) == splits.test.labels
        yield (
            f"lambda {decay:g}",
            {
                "negative": 100 * float((largest < 0).double().mean()),
                "test accuracy": 100 * float(right.double().mean()),
            },
        )
