"""GEX: Tables 3, 7, 13 and 14 and Figure 4."""

from __future__ import annotations

import numpy as np
import torch
from skimage.filters import threshold_otsu
from torch import Tensor
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.applications import soft_cross_entropy, soft_labels
from influence_core.training import Checkpoint, Trajectory
from tests.benchmarks.paper_tables.shared import (
    Case,
    Rows,
    accuracy_after,
    accuracy_without,
    corrupted,
    fitted,
    judged,
    lowest,
    shuffled,
    suspicion,
    worth,
)

DETECTORS = {
    "Deep-KNN": "deepknn",
    "CL": "confidentlearning",
    "F-score": "forgetting",
    "EL2N": "el2n",
    "RandProj": "randproj dim=20",
    "TracIn": "tracin weights='equal'",
    "TracInRP": "tracinrp dim=20 last=5",
    "Arnoldi": "arnoldi",
    "GEX-lin": "gexlinear",
    "GEX": "gex",
    "control: loss": "loss",
}
"""The methods of the paper's tables with its sizes, by the titles there."""

PRUNED = (0.3, 0.5, 0.7)


def relabelled_accuracy(study: ic.Study, flagged: Tensor, seed: int) -> float:
    """Test accuracy after training again with the labels of eq. 16 where flagged, bool [N]."""
    given = study.train.labels
    targets = torch.nn.functional.one_hot(given, study.num_classes).double()
    targets[flagged] = soft_labels(study.probabilities("train"), given)[flagged]
    inputs = study.train.batch(range(len(study.train)))[0]
    return accuracy_after(study, TensorDataset(inputs, targets.to(inputs)), seed, soft_cross_entropy)


def table3(case: Case) -> Rows:
    study = case.study()
    wrong, train = corrupted(study), study.train
    assert train.true_labels is not None
    yield "clean labels", {"accuracy": accuracy_after(study, train.with_labels(train.true_labels), case.seed)}
    yield "noisy labels", {"accuracy": accuracy_after(study, train, case.seed)}
    flags = {"control: the wrong ones": wrong}
    for title, name in DETECTORS.items():
        scores = suspicion(study, name).double()
        flags[title] = scores > float(threshold_otsu(np.asarray(scores), nbins=256))
    for title, flagged in flags.items():
        yield (
            title,
            {
                "accuracy": relabelled_accuracy(study, flagged, case.seed),
                "flagged": float(flagged.sum()),
                "wrong among them": float((flagged & wrong).sum()),
            },
        )


def table7(case: Case) -> Rows:
    study = case.study()
    changes = fitted(study, "gex").changes_["train"]  # type: ignore[attr-defined]
    for members in (32, 28, 24, 20, 16, 12, 8, 4):  # the first of them are those of a smaller ensemble
        yield f"GEX, {members} members", judged(study, changes[:, :members].square().mean(1))
    for title in ("Arnoldi", "TracInRP"):
        yield title, judged(study, suspicion(study, DETECTORS[title]))


def table13(case: Case) -> Rows:
    study = case.study()
    for title in ("RandProj", "TracInRP", "Arnoldi", "GEX"):
        yield title, judged(study, -worth(study, DETECTORS[title], "test"))


def members_as_checkpoints(study: ic.Study, gex: ic.estimators.GEX) -> Trajectory:
    """The members of a geometric ensemble in the place of a training's checkpoints."""
    states = gex._watched_members(study, lambda model: {n: t.clone() for n, t in model.state_dict().items()})
    rate = gex.learning_rate
    return Trajectory(
        [
            Checkpoint(m + 1, float(m + 1), rate, rate, 0.0, {name: stacked[m] for name, stacked in states.items()})
            for m in range(gex.members)
        ]
    )


def table14(case: Case) -> Rows:
    study = case.study()
    for title in ("RandProj", "TracInRP"):
        yield title, judged(study, suspicion(study, DETECTORS[title]))
    around = study.replaced(trajectory=members_as_checkpoints(study, ic.estimators.GEX()))
    yield "TracInRP with GE", judged(study, suspicion(around, "tracinrp dim=20"))
    yield "GEX", judged(study, suspicion(study, DETECTORS["GEX"]))


def figure4(case: Case) -> Rows:
    study = case.study()
    yield "all images", {"0 %": accuracy_without(study, torch.tensor([], dtype=torch.long), case.seed)}
    scores = {"random": shuffled(study, case.seed)}
    chosen = ("F-score", "EL2N", "RandProj", "TracInRP", "Arnoldi", "GEX-lin", "GEX")
    scores |= {title: suspicion(study, DETECTORS[title]) for title in chosen}
    for title, values in scores.items():
        found = {f"{share:.0%}": accuracy_without(study, lowest(values, share), case.seed) for share in PRUNED}
        yield title, found
