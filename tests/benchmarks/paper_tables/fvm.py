"""Flat validation minima: Figures 2 and 3, Tables 6, 11, 12 and 13."""

from __future__ import annotations

import torch
from torch import Tensor

import influence_core as ic
from influence_core.curvature.inverses import DiagonalInverse
from influence_core.gradients import inner_products, mean_gradient, squared_norms
from influence_core.models import dataset_losses
from influence_core.training import Trajectory
from tests.benchmarks.paper_tables.shared import Case, Cells, Rows, corrupted, fitted, judged, suspicion, worth

LISSA = "lissa preconditioner=None steps=10 damping=0.1"
"""The plain series with the ten steps of GEX's code; scores are those against the validation set."""

DAMPING = 1e-3
SOLVERS = {"none (VM)": "vm", "SAM": "fvm"} | {
    title: f"fvm sharpness={title.lower().replace('-', '')}" for title in ("ASAM", "F-SAM")
}
EPOCHS = 20
"""Of the checkpoints of Figure 2, three of the sixty apart."""


def tuned_study(study: ic.Study, name: str) -> ic.Study:
    """The study with its model tuned on the validation set; what comes next takes no further step."""
    return study.replaced(model=fitted(study, name).model_, trajectory=None)  # type: ignore[attr-defined]


def figure2(case: Case) -> Rows:
    study = Case(case.seed, case.noise, by_heart=True).study(EPOCHS)
    assert study.trajectory is not None
    seen: list[tuple[float, float, float]] = []
    for number, checkpoint in enumerate(study.trajectory):
        if number not in (0, 1, 4, 9, 19):
            continue
        then = study.replaced(model=study.at(checkpoint), trajectory=Trajectory([checkpoint]))
        right = then.replaced(test=study.split("validation")).accuracy()
        lissa = judged(study, suspicion(then, LISSA))["AUC"]
        tracin = judged(study, -worth(then, "tracin"))["AUC"]
        seen.append((100 * right, lissa, tracin))
        cells = dict(zip(("validation accuracy", "LiSSA, AUC", "TracIn, AUC"), seen[-1], strict=True))
        yield f"epoch {checkpoint.epoch:g}", cells
    ranks = torch.tensor(seen).argsort(0).argsort(0).double().T
    together = 100 * torch.corrcoef(ranks)[0]
    yield "rank correlation with accuracy", {"LiSSA, AUC": float(together[1]), "TracIn, AUC": float(together[2])}


def figure3(case: Case) -> Rows:
    study = case.study()
    clean = ~corrupted(study)
    for steps in (0, 30, 300, 1000):
        there = tuned_study(study, "fvm" if steps == 1000 else f"fvm steps={steps}")
        lissa = suspicion(there, LISSA)
        q = suspicion(there, "vm steps=0")
        yield (
            f"{steps} steps",
            {
                "LiSSA, AUC": judged(study, lissa)["AUC"],
                "q, AUC": judged(study, q)["AUC"],
                "loss, AUC": judged(study, there.losses("train"))["AUC"],
                "median size of LiSSA's influence of clean images, 1e-6": float(1e6 * lissa[clean].abs().median()),
            },
        )


def four_terms(study: ic.Study) -> dict[str, Tensor]:
    """Suspicion by each pair of the changes of loss and of weights, with diagonal curvatures, at the study's model."""
    model, loss, train, clean = study.model, study.loss, study.train, study.split("validation")
    inverse = {
        name: DiagonalInverse.fit(model, loss, data, damping=DAMPING).weights
        for name, data in (("standard", train), ("ours", clean))
    }
    gradient = mean_gradient(model, loss, clean)
    scores = {}
    for name, weights in inverse.items():
        step = {n: (g * weights[n])[None] for n, g in gradient.items()}
        scores[f"standard loss, {name} weights"] = -inner_products(model, loss, train, step)[:, 0]
    for name, weights in inverse.items():
        metric = {n: w.square() / inverse["ours"][n] for n, w in weights.items()}  # H^-1 P H^-1
        scores[f"our loss, {name} weights"] = squared_norms(model, loss, train, metric)
    return scores


def table6(case: Case) -> Rows:
    study = case.study()
    for title, scores in four_terms(tuned_study(study, "fvm")).items():
        yield title, judged(study, scores)


def table11(case: Case) -> Rows:
    study = case.study()
    for size in (300, 150, 60, 30):
        less = study.replaced(validation=study.split("validation").subset(range(size)))
        yield f"LiSSA, {size}", judged(study, suspicion(less, LISSA))
        yield f"VM, {size}", judged(study, suspicion(less, "vm"))
        fvm = fitted(less, "fvm")
        yield f"FVM, {size}", judged(study, fvm.mislabel_scores().values)
        losses = dataset_losses(fvm.model_, study.loss, study.train)  # type: ignore[attr-defined]
        yield f"control: loss after tuning, {size}", judged(study, losses)


def table12(case: Case) -> Rows:
    study = case.study()
    for title, name in SOLVERS.items():
        yield title, judged(study, suspicion(study, name))


def table13(case: Case) -> Rows:
    study = case.study()
    for name in ("vm", "fvm"):
        there = tuned_study(study, name)
        for metric in ("lissa", "datainf", "ekfac", "diagonal"):
            yield f"{name.upper()}, {metric}", _by_metric(study, there, metric)


def _by_metric(study: ic.Study, there: ic.Study, metric: str) -> Cells:
    probes = " probes=5" if metric in ("lissa", "datainf") else ""
    return judged(study, suspicion(there, f"vm steps=0 metric={metric}{probes}"))
