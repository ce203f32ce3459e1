"""Do probabilities of wrong labels hold? On the digits study: the section of RESULTS.md.

Run ``python -m tests.benchmarks.calibration``. Each seed is a study of its own: split, flips, weights. The calibrated
detector learns from flips planted among clean images; the others are guesses from their scores (``mixture``). With
``--data FOLDER`` a study that was kept (``tests.benchmarks.cifar10n --study FOLDER``) is judged instead.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import influence_core as ic
from tests.benchmarks.mislabels import interval, made

NAMES = ("calibrated", "priormargin", "el2n", "loss")
BUDGET = 100


def judged(study: ic.Study, name: str, budget: int) -> dict[str, Any]:
    """How far probabilities, a budget and suggestions hold, in per cent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = made(name).fit(study)
        scores = estimator.mislabel_scores()
    found = ic.applications.detect(study, scores)
    part = found.budget(budget)
    row: dict[str, Any] = {
        "ece": 100 * found.reliability().error,
        "brier": found.reliability().brier,
        "share": 100 * float(found.probabilities.mean()),
        "expected": 100 * (part.expected_precision or 0.0),
        "real": 100 * part.at(part.threshold)["precision"],
    }
    table = ic.applications.relabel(study, estimator, scores=scores)
    if table["suggestion_quality"].notna().all():
        assert study.train.true_labels is not None
        flagged = table[table["is_label_issue"]]
        names = [study.class_names[int(study.train.true_labels[i])] for i in flagged["index"]]
        row |= {
            "suggested": 100 * float(flagged["suggestion_quality"].mean()),
            "suggested_real": 100 * float(np.mean(flagged["suggested_label"].to_numpy() == np.array(names))),
        }
    return row


def main(
    noise: Annotated[list[float] | None, typer.Option(help="Shares of wrong labels; 0.1, 0.2 and 0.4.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seeds; 0 to 2.")] = None,
    only: Annotated[list[str] | None, typer.Option(help=f"Detectors; {', '.join(NAMES)}.")] = None,
    budget: Annotated[int, typer.Option(help="Images that are checked.")] = BUDGET,
    data: Annotated[Path | None, typer.Option(help="A kept study to judge instead.")] = None,
    keep: Annotated[Path | None, typer.Option(help="File of results, one JSON object a line.")] = None,
) -> None:
    """Print one row for each share of wrong labels and detector."""
    rows = [json.loads(line) for line in keep.read_text().splitlines()] if keep and keep.is_file() else []
    rates = noise or [0.1, 0.2, 0.4]
    for rate in rates if data is None else [0.0]:
        for number in seed or (range(3) if data is None else [0]):
            done = {row["name"] for row in rows if (row["noise"], row["seed"]) == (rate, number)}
            missing = [name for name in only or NAMES if name not in done]
            if not missing:
                continue
            study = ic.demo.train_digits(rate, number) if data is None else ic.Study.load(data)
            for name in missing:
                rows.append({"noise": rate, "seed": number, "name": name} | judged(study, name, budget))
                if keep is not None:
                    with keep.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    typer.echo(
        f"| wrong | detector | calibration error, points | share expected wrong | {budget} checked: expected, really "
        "wrong | suggestions for flagged: expected, really right |\n|---|---|---|---|---|---|"
    )
    for rate in sorted({row["noise"] for row in rows}):
        for name in dict.fromkeys(row["name"] for row in rows):
            part = [row for row in rows if (row["noise"], row["name"]) == (rate, name)]
            said = [", ".join(filter(None, (interval(part, a), interval(part, b)))) for a, b in PAIRS]
            typer.echo(
                f"| {rate:.0%} | {name} | {interval(part, 'ece')} | {interval(part, 'share')} | {said[0]} | {said[1]} |"
            )


PAIRS = (("expected", "real"), ("suggested", "suggested_real"))


if __name__ == "__main__":
    typer.run(main)
