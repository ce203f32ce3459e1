"""AUC and AP of finding wrong labels on the digits study, as the README's table.

Run ``python -m tests.benchmarks.mislabels``; the defaults take some minutes on two cores.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Annotated

import typer

import influence_core as ic

ESTIMATORS = ["tracin", "gex", "vm", "fvm", "loss"]


def main(
    noise: Annotated[list[float] | None, typer.Option(help="Shares of wrong labels.")] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 3,
) -> None:
    """Train the digits study for each noise rate and seed, and judge every estimator with its defaults."""
    for rate in noise or [0.1, 0.4]:
        areas: dict[str, list[tuple[float, float]]] = defaultdict(list)
        right: dict[str, list[float]] = defaultdict(list)
        seconds: dict[str, list[float]] = defaultdict(list)
        for seed in range(seeds):
            study = ic.demo.train_digits(rate, seed)
            truth = study.train.true_labels
            assert truth is not None
            for name in ESTIMATORS:
                estimator = ic.estimators.get(name).fit(study)
                scores = estimator.mislabel_scores()
                found = ic.applications.detect(study, scores)
                areas[name].append((100 * (found.auc or 0), 100 * (found.ap or 0)))
                seconds[name].append(scores.meta["seconds"] + scores.meta["fit_seconds"])
                if "label_influence" in estimator.gives():
                    suggested = estimator.label_influence().values.argmax(1)
                    right[name].append(100 * float((suggested == truth).double().mean()))
            right["given labels"].append(100 * float((study.train.labels == truth).double().mean()))
            right["model's prediction"].append(100 * float((study.predictions("train") == truth).double().mean()))
        typer.echo(f"\n{rate:.0%} wrong labels, seeds 0 to {seeds - 1}: mean (lowest to highest)\n")
        typer.echo("| estimator | AUC | AP | training labels right after relabelling | seconds |")
        typer.echo("|---|---|---|---|---|")
        for name in ESTIMATORS:
            auc, ap = zip(*areas[name], strict=True)
            cells = [_cell(auc), _cell(ap), _cell(right[name]) if name in right else "", _mean(seconds[name])]
            typer.echo(f"| {name} | {' | '.join(cells)} |")
        for name in ("given labels", "model's prediction"):
            typer.echo(f"| control: {name} | | | {_cell(right[name])} | |")


def _cell(values: list[float] | tuple[float, ...]) -> str:
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def _mean(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f}"


if __name__ == "__main__":
    typer.run(main)
