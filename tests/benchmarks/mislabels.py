"""Finding and mending wrong labels on the digits study, every estimator: the first tables of RESULTS.md.

Run ``python -m tests.benchmarks.mislabels``. Each seed is a study of its own: split, wrong labels, weights. With
``--keep FILE`` every single result is a line of that file, and what it holds already is not computed again; several
processes, each with its own ``--seed``, may share one file. Two cores take about an hour for everything. An estimator
with other settings is named with them, as in ``--only "laplace scale=0.01"``; ``--memorised`` trains the network until
it knows its wrong labels by heart.
"""

from __future__ import annotations

import ast
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from scipy import stats
from torch import Tensor

import influence_core as ic

Row = dict[str, Any]

GIVEN, TRAINED, TUNED = "given labels", "argmax p, trained model", "argmax p, tuned model"
CONTROLS = (GIVEN, TRAINED, TUNED)
OURS = ("labelcontrast", "priormargin", "areaundermargin", "relationgraph", "calibrated")
RIVALS = ("tunedloss", "el2n", "loss")


def right(labels: Tensor, data: ic.data.LabelledDataset) -> Row:
    """Per cent of labels that are the true ones: over all images, and over those that were given a wrong one."""
    assert data.true_labels is not None
    assert data.corrupted is not None
    hits = (labels == data.true_labels).double()
    return {"right": 100 * float(hits.mean()), "right_corrupted": 100 * float(hits[data.corrupted].mean())}


def memorised(rate: float, seed: int, checkpoints: int | None = None) -> ic.Study:
    """The digits study with a network that has learnt its training set by heart: sixty epochs of plain SGD."""
    splits = ic.data.digits(rate, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ic.models.build("small_cnn", channels=1, classes=10)
        trajectory = ic.training.fit(model, splits.train, epochs=60, batch_size=64, checkpoints=checkpoints, seed=seed)
    return ic.Study(model, splits.train, splits.test, splits.validation, trajectory, weight_decay=5e-4)


def imbalanced(rate: float, seed: int, validation: str) -> ic.Study:
    """The digits study with true frequencies from 1 to 1/10, and a validation set that is balanced or matched."""
    splits = ic.data.digits(rate, seed)
    generator = torch.Generator().manual_seed(seed)
    shares = 10 ** -torch.linspace(0, 1, 10)[torch.randperm(10, generator=generator)]

    def thinned(data: ic.data.LabelledDataset) -> ic.data.LabelledDataset:
        true = data.labels if data.true_labels is None else data.true_labels
        return data.subset(torch.rand(len(data), generator=generator) < shares[true])

    train = thinned(splits.train)
    clean = thinned(splits.validation) if validation == "matched" else splits.validation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ic.models.build("small_cnn", channels=1, classes=10)
        trajectory = ic.training.fit(model, train, seed=seed, **ic.demo.RECIPE)
    return ic.Study(model, train, splits.test, clean, trajectory, weight_decay=5e-4)


def made(name: str) -> ic.estimators.Estimator:
    """An estimator by its name, and by settings behind it: "laplace scale=0.01"."""
    bare, *settings = name.split()
    pairs = (setting.partition("=") for setting in settings)
    return ic.estimators.get(bare, **{key: _value(text) for key, _, text in pairs})


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def judged(study: ic.Study, name: str) -> Row:
    """One estimator on one study, with its defaults where its name says nothing else."""
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a solver has to say of its residual
        estimators = [made(part).fit(study) for part in name.split("+")]
        each = [estimator.mislabel_scores() for estimator in estimators]
        estimator, scores = estimators[0], each[0] if len(each) == 1 else ic.applications.rank_mean(each)
    row: Row = {"seconds": time.perf_counter() - begun}
    found = ic.applications.detect(study, scores)
    assert found.auc is not None
    assert found.ap is not None
    row |= {"auc": 100 * found.auc, "ap": 100 * found.ap}
    if len(estimators) == 1 and "label_influence" in estimator.gives():
        row |= right(estimator.label_influence().values.argmax(1), study.train)
    return row


def controls(study: ic.Study) -> Iterator[tuple[str, Row]]:
    """Labels that no influence is needed for."""
    tuned = ic.estimators.FVM().fit(study).model_
    yield GIVEN, right(study.train.labels, study.train)
    yield TRAINED, right(study.predictions("train"), study.train)
    yield TUNED, right(study.replaced(model=tuned, trajectory=None).predictions("train"), study.train)


def main(
    noise: Annotated[list[float] | None, typer.Option(help="Shares of wrong labels; 0.1, 0.2 and 0.4.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seeds; 0 to 4.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Estimators; all with mislabel scores.")] = None,
    by_heart: Annotated[bool, typer.Option("--memorised", help="Train until wrong labels are known by heart.")] = False,
    uneven: Annotated[str, typer.Option("--imbalanced", help="Validation set: balanced or matched.")] = "",
    keep: Annotated[Path | None, typer.Option(help="File of results, one JSON object a line.")] = None,
) -> None:
    """Judge every estimator with its defaults on each study, and print the tables of all results."""
    names = only or [c.name for c in ic.estimators.all_estimators() if "mislabel_scores" in c.gives()]
    rows = [json.loads(line) for line in keep.read_text().splitlines()] if keep and keep.is_file() else []
    for rate in noise or [0.1, 0.2, 0.4]:
        for number in seed or range(5):
            done = {row["name"] for row in rows if (row["noise"], row["seed"]) == (rate, number)}
            missing = [name for name in names if name not in done]
            if not missing and TUNED in done:
                continue
            if uneven:
                study = imbalanced(rate, number, uneven)
            else:
                study = memorised(rate, number) if by_heart else ic.demo.train_digits(rate, number)
            for name in missing:
                _keep(rows, keep, {"noise": rate, "seed": number, "name": name} | judged(study, name))
            if TUNED not in done:
                for name, result in controls(study):
                    _keep(rows, keep, {"noise": rate, "seed": number, "name": name} | result)
    table(rows)


def _keep(rows: list[Row], keep: Path | None, row: Row) -> None:
    rows.append(row)
    if keep is not None:
        with keep.open("a") as file:
            file.write(json.dumps(row) + "\n")


def table(rows: list[Row]) -> None:
    """Print one table of everything: best mean average precision first, the controls last."""
    rates = sorted({row["noise"] for row in rows})
    seeds = sorted({row["seed"] for row in rows})
    typer.echo(f"Seeds {', '.join(map(str, seeds))}; mean and 95 % interval over the seeds, in per cent.\n")
    heads = [f"{rate:.0%} wrong: AUC, AP" for rate in rates] + [f"{rate:.0%}: relabelled right" for rate in rates]
    typer.echo(f"| estimator | {' | '.join(heads)} | seconds |\n|{'---|' * (len(heads) + 2)}")
    of = {name: [row for row in rows if row["name"] == name] for name in dict.fromkeys(row["name"] for row in rows)}
    ranked = sorted((n for n in of if n not in CONTROLS), key=lambda n: -mean(of[n], "ap"))
    for name in [*ranked, *(c for c in CONTROLS if c in of)]:
        at = [[row for row in of[name] if row["noise"] == rate] for rate in rates]
        cells = [", ".join(filter(None, (interval(part, "auc"), interval(part, "ap")))) for part in at]
        for part in at:
            known = [row for row in part if "right" in row]
            cells.append(f"{mean(known, 'right'):.1f}, {mean(known, 'right_corrupted'):.1f}" if known else "")
        seconds = f"{mean(of[name], 'seconds'):.1f}" if "seconds" in of[name][0] else ""
        title = f"control: {name}" if name in CONTROLS else name
        typer.echo(f"| {title} | {' | '.join(cells)} | {seconds} |")
    for name in (name for name in ranked if name.split("+")[0].split()[0] in OURS):
        for rival in RIVALS:
            told = [(rate, gains) for rate in rates if (gains := _gains(of, name, rival, rate))]
            words = "; ".join(f"{interval(gains, 'gain')} at {rate:.0%}" for rate, gains in told)
            if told and name != rival:
                typer.echo(f"\nAP of {name} less that of {rival}, seed by seed: {words}")


def _gains(of: dict[str, list[Row]], name: str, rival: str, rate: float) -> list[Row]:
    pairs = {row["seed"]: row["ap"] for row in of.get(rival, []) if row["noise"] == rate}
    ours = [row for row in of.get(name, []) if row["noise"] == rate and row["seed"] in pairs]
    return [{"gain": row["ap"] - pairs[row["seed"]]} for row in ours]


def mean(rows: list[Row], key: str) -> float:
    """Mean over the seeds."""
    return float(np.mean([row[key] for row in rows]))


def interval(rows: list[Row], key: str) -> str:
    """Mean over the seeds, and its 95 % interval by Student's t."""
    values = [row[key] for row in rows if key in row]
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    spread = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return f"{np.mean(values):.1f} ± {spread:.1f}"


if __name__ == "__main__":
    typer.run(main)
