"""Curves of removal on the digits study: the most harmful and the most valuable images by several estimators.

Run ``python -m tests.benchmarks.removal``; two idle cores take about ten minutes. Each seed is a study of its own with
10 % wrong labels. Influence is summed over the validation set, which is clean and apart from the test set; estimators
that give none go by their mislabel scores. With ``--store FOLDER`` each training is kept, and a run that was broken off
goes on; several processes with other seeds may share one.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

import influence_core as ic
from influence_core.applications import Removals, paired, removal_curves
from influence_core.applications.removal import values
from tests.benchmarks.mending import study_of
from tests.benchmarks.mislabels import made

NAMES = ("gex", "fvm", "samgif", "tracin", "ekfac", "loss")


def table(order: str, found: list[Removals], noise: float) -> None:
    """Print accuracies, and what each order is worth beside random removal."""
    counts = [count for count in found[0].outcomes["random"] if count]
    full = 100 * float(np.mean([one.outcomes["random"][0].accuracy for one in found]))
    typer.echo(
        f"\nMost {order} first; {len(found)} studies of {found[0].size} images with {noise:.0%} wrong labels, all "
        f"images: {full:.1f} %; accuracy, and in brackets wrong labels among the removed, per cent:\n"
    )
    heads = [f"{count / found[0].size:.0%} removed" for count in counts]
    typer.echo(f"| order | {' | '.join(heads)} | less random, points, over all shares |\n|{'---|' * (len(heads) + 2)}")
    rows = []
    for name in found[0].outcomes:
        cells = []
        for count in counts:
            accuracy = 100 * float(np.mean([one.outcomes[name][count].accuracy for one in found]))
            wrong = [100 * one.wrong[name][count] / count for one in found if name in one.wrong]
            cells.append(f"{accuracy:.1f}" + (f" ({np.mean(wrong):.0f})" if wrong else ""))
        differences = [
            torch.stack(
                [one.outcomes[name][c].right.double() - one.outcomes["random"][c].right.double() for c in counts]
            ).mean(0)
            for one in found
        ]
        gain = paired(torch.cat(differences))
        rows.append((gain.value, f"| {name} | {' | '.join(cells)} | {'' if name == 'random' else gain} |"))
    for _, row in sorted(rows, key=lambda pair: pair[0], reverse=order == "harmful"):
        typer.echo(row)


def main(
    seeds: Annotated[int, typer.Option(help="How many studies, from the first seed.")] = 2,
    first: Annotated[int, typer.Option(help="The first seed.")] = 0,
    noise: Annotated[float, typer.Option(help="Share of wrong labels.")] = 0.1,
    images: Annotated[int, typer.Option(help="Training images, of 1000.")] = 1000,
    share: Annotated[list[float] | None, typer.Option(help="Shares to remove; 0.02, 0.05, 0.07, 0.1, 0.25.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Estimators, such as gex; six by default.")] = None,
    store: Annotated[Path | None, typer.Option(help="Folder in which trainings are kept.")] = None,
) -> None:
    """Remove images by every order from each study, train again, and print two tables."""
    torch.set_num_threads(1)
    begun = time.perf_counter()
    kept = None if store is None else ic.store.Store(store)
    shares = share or [0.02, 0.05, 0.07, 0.1, 0.25]
    found: dict[str, list[Removals]] = {"harmful": [], "valuable": []}
    for seed in range(first, first + seeds):
        study = study_of("uniform", noise, seed, images)
        by = {}
        for name in only or NAMES:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what a solver has to say of its residual
                by[name] = values(study, made(name))
        typer.echo(f"seed {seed}: values after {time.perf_counter() - begun:.0f} s", err=True)
        for order, reports in found.items():
            reports.append(removal_curves(study, by, order, shares, (1000 + seed,), store=kept))  # type: ignore[arg-type]
            typer.echo(f"seed {seed}, {order}: done after {time.perf_counter() - begun:.0f} s", err=True)
    for order, reports in found.items():
        table(order, reports, noise)


if __name__ == "__main__":
    typer.run(main)
