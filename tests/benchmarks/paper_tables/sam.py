"""SAM influence: Figures 1 to 3 and Table 2."""

from __future__ import annotations

import time

import torch

import influence_core as ic
from tests.benchmarks.paper_tables.shared import (
    Case,
    Rows,
    accuracy_without,
    corrupted,
    fitted,
    judged,
    lowest,
    shuffled,
    timed,
    worth,
)

METHODS = {
    "SAM-GIF": "samgif",
    "TRAK": "trak",
    "IF": "conjugategradient",
    "IF-EKFAC": "ekfac",
}
NOTHING = torch.tensor([], dtype=torch.long)


def scored(study: ic.Study, seed: int) -> dict[str, torch.Tensor]:
    """The worth of every training image for the validation set, by each method and two controls."""
    found = {title: worth(study, name) for title, name in METHODS.items()}
    return found | {"control: loss": -study.losses("train"), "random": shuffled(study, seed)}


def figure1(case: Case) -> Rows:
    study = case.study()
    wrong = corrupted(study)
    for title, values in scored(study, case.seed).items():
        cells = {}
        for share in (0.1, 0.2, 0.4):
            found = wrong[lowest(values, share)].sum() / wrong.sum()
            cells[f"found in the lowest {share:.0%}"] = 100 * float(found)
        yield title, cells | {"AUC": judged(study, -values)["AUC"]}


def figure3(case: Case) -> Rows:
    study = case.study()
    yield "nothing removed", {"0 %": accuracy_without(study, NOTHING, case.seed)}
    for title, values in scored(study, case.seed).items():
        shares = (0.05, 0.1, 0.25)
        yield title, {f"{s:.0%}": accuracy_without(study, lowest(values, s), case.seed) for s in shares}


def figure2(case: Case) -> Rows:
    study = case.study()
    yield "nothing removed", {"0 %": accuracy_without(study, NOTHING, case.seed)}
    for title in ("SAM-GIF", "IF-EKFAC", "random"):
        values = shuffled(study, case.seed) if title == "random" else worth(study, METHODS[title])
        cells = {f"retrained, {s:.0%}": accuracy_without(study, lowest(-values, s), case.seed) for s in (0.02, 0.1)}
        change = fitted(study, METHODS["SAM-GIF"]).parameter_change(lowest(-values, 0.1))
        cells["edited by SAM-GIF, 10%"] = 100 * study.edited(change).accuracy()
        yield title, cells


def table2(case: Case) -> Rows:
    study = case.study()
    begun = time.perf_counter()
    again = accuracy_without(study, NOTHING, case.seed)
    yield "control: trained again with all", {"accuracy": again, "seconds": time.perf_counter() - begun}
    yield "control: no edit", {"accuracy": 100 * study.accuracy(), "seconds": 0.0}
    for title in ("TRAK", "IF-EKFAC", "SAM-GIF"):
        values, scoring = timed(lambda title=title: worth(study, METHODS[title]))  # type: ignore[misc]
        begun = time.perf_counter()
        cells = {"accuracy": accuracy_without(study, lowest(values, 0.1), case.seed)}
        yield f"{title}, retrained", cells | {"seconds": scoring + time.perf_counter() - begun}
    removed = lowest(values, 0.1)
    for title, name in (("SAM-GIF", "samgif"), ("SAM-GIF, last checkpoint", "samgif last=1 momentum=0.0")):
        begun = time.perf_counter()
        edited = study.edited(fitted(study, name).parameter_change(removed))
        yield f"{title}, edited", {"accuracy": 100 * edited.accuracy(), "seconds": time.perf_counter() - begun}
    yield "random, retrained", {"accuracy": accuracy_without(study, lowest(shuffled(study, case.seed), 0.1), case.seed)}
