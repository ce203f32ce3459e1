"""SAM influence: Figures 1 to 3, 5 and 12, and Table 2."""

from __future__ import annotations

import time
import warnings

import torch

import influence_core as ic
from influence_core.estimators.edits.scale import validated_scale
from tests.benchmarks.editing import DAMPED, FINE, WHOLE
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


def edits_of(study: ic.Study, name: str, groups: dict[str, torch.Tensor]) -> Rows:
    """Test accuracy after an edit for each group of images, as it is and scaled on the validation set."""
    given, scaled = {}, {}
    for column, removed in groups.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # solves are cut short on purpose
            change = fitted(study, name).parameter_change(removed)
        given[column] = 100 * study.edited(change).accuracy()
        factor = validated_scale(study, change, removed, scales=FINE)[0]
        shorter = study.edited({part: factor * delta for part, delta in change.items()})
        scaled[column] = 100 * shorter.accuracy()
    yield "", given
    yield ", scaled", scaled


def _valueless(study: ic.Study, shares: tuple[float, ...]) -> dict[str, torch.Tensor]:
    """The images of lowest influence on the validation set by EK-FAC, by the title of a column."""
    values = worth(study, METHODS["IF-EKFAC"])
    return {f"{share:.0%} removed": lowest(values, share) for share in shares}


def figure5(case: Case) -> Rows:
    study = case.study()
    groups = _valueless(study, (0.01, 0.02, 0.05, 0.1))
    yield "control: no edit", dict.fromkeys(groups, 100 * study.accuracy())
    yield "retrained", {column: accuracy_without(study, removed, case.seed) for column, removed in groups.items()}
    for title, name in (WHOLE | DAMPED).items():
        for way, cells in edits_of(study, name, groups):
            yield title + way, cells


def figure12(case: Case) -> Rows:
    study = case.study()
    groups = _valueless(study, (0.01, 0.1))
    yield "control: no edit", dict.fromkeys(groups, 100 * study.accuracy())
    yield "retrained", {column: accuracy_without(study, removed, case.seed) for column, removed in groups.items()}
    for last in (1, 2, 4, 6):
        for way, cells in edits_of(study, f"samgif last={last}", groups):
            yield f"last {last} checkpoints{way}", cells
