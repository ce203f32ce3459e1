"""Generalized influence functions: Tables 1 and 2, and Figure 3; Table 3 is in ``backdoor``."""

from __future__ import annotations

import time

import torch
from torch import Tensor

import influence_core as ic
from influence_core.curvature import Hessian
from influence_core.losses import cross_entropy
from influence_core.models import model_outputs
from tests.benchmarks.editing import FINE, edited, edits, judge
from tests.benchmarks.paper_tables.shared import Case, Cells, Rows, trained_on, without

CLASS = 8
"""The class that is removed."""

ITERATIONS, QUICK = 20, 5
"""Of GIF, FIF and PIF; each takes two products with the Hessian. Sixteen edits are quick ones."""


def _judged(
    study: ic.Study, model: torch.nn.Module, removed: Tensor, seconds: float = 0.0, scale: float = 1.0
) -> Cells:
    own, test, f1 = judge(study, model, removed, CLASS)
    cells = {"self accuracy": 100 * own, "test accuracy": 100 * test, "F1": 100 * f1}
    return cells | {"scale": scale, "seconds": seconds}


def _removal(study: ic.Study, name: str, removed: Tensor) -> Cells:
    model, scale, seconds = edited(study, name, removed, scales=FINE)
    return _judged(study, model, removed, seconds, scale)


def table1(case: Case) -> Rows:
    study = case.study()
    removed = (study.train.labels == CLASS).nonzero().flatten()
    for ratio in (0.05, 0.1, 0.3, 0.5):
        for selector in ("top_outputs", "top_gradients", "threshold", "random"):
            name = f"gif scale=1.0 selector={selector} ratio={ratio} max_iterations={QUICK}"
            yield f"{selector}, {ratio:.0%}", _removal(study, name, removed)


def table2(case: Case) -> Rows:
    study = case.study()
    removed = (study.train.labels == CLASS).nonzero().flatten()
    yield "control: no edit", _judged(study, study.model, removed, scale=0.0)
    begun = time.perf_counter()
    again = trained_on(study, without(study.train, removed), case.seed)
    yield "control: retrained", _judged(study, again, removed, time.perf_counter() - begun)
    for title, name in edits((0.1, 0.3, 0.5), ITERATIONS).items():
        yield title, _removal(study, name, removed)


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
