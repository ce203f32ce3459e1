"""Do summed influences predict what a model does without a group of training images? A table for each estimator.

Run ``python -m tests.benchmarks.group_effects`` for softmax regression on the digits, retrained exactly, and with
``--network`` for the demo's network, trained a little further from its own weights without each group. Groups of one
class and at random are the same for all estimators; each has its own top. ``--mean`` takes the mean loss over the
images that are left in place of the fixed divisor N.
"""

from __future__ import annotations

import time
import warnings
from functools import partial
from typing import Annotated

import pandas as pd
import torch
import typer

import influence_core as ic
from influence_core.evaluation import GroupEffects, draw_groups, group_effects, retrain_subsets
from tests.benchmarks.brittleness import further
from tests.benchmarks.mislabels import made
from tests.benchmarks.softmax_regression import Exact
from tests.benchmarks.softmax_regression import made as regression

NAMES = ("conjugategradient tolerance=0.0001", "conjugategradient", "ekfac", "lastlayer", "tracin", "gex", "fvm")
SHARES = (0.01, 0.02, 0.05, 0.1)


def main(
    count: Annotated[int, typer.Option(help="Groups of each kind and share.")] = 20,
    tests: Annotated[int, typer.Option(help="How many test images.")] = 40,
    seeds: Annotated[int, typer.Option(help="Trainings for each group; softmax regression needs one.")] = 1,
    network: Annotated[bool, typer.Option(help="The demo's network in place of softmax regression.")] = False,
    mean: Annotated[bool, typer.Option(help="The mean over the images that are left.")] = False,
    top: Annotated[bool, typer.Option(help="Groups of each estimator's own top as well.")] = True,
    only: Annotated[list[str] | None, typer.Option(help="Estimators; seven by default.")] = None,
) -> None:
    """Draw groups, retrain once for all estimators and once for each one's top, and print a table."""
    torch.set_num_threads(1)
    study = ic.demo.digits() if network else regression()
    retrain = further if network else Exact(study, fixed=not mean)
    train = partial(retrain_subsets, study, retrain, test=range(tests), seeds=range(seeds))
    begun = time.perf_counter()
    shared = draw_groups(study, SHARES, count)
    by_all = train(shared.kept)
    typer.echo(
        f"{study.name}: {count} groups of each kind and size, {tests} test images; {len(shared.kept)} x {seeds} "
        f"trainings in {time.perf_counter() - begun:.0f} s\n"
    )
    typer.echo("| estimator | groups | size | Spearman (95 %) | Pearson | predicted / actual | same sign |")
    typer.echo("|---|---|---|---|---|---|---|")
    for name in only or NAMES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a solve says of itself is not asked here
            scores = made(name).fit(study).influence(range(tests))
        show(name, group_effects(study, scores, shared, by_all))
        if top:
            own = draw_groups(study, SHARES, count, ("top",), scores)
            show(name, group_effects(study, scores, own, train(own.kept)))


def show(name: str, found: GroupEffects) -> None:
    """The rows of one estimator."""
    for row in found.table.to_dict("records"):
        slope = "–" if pd.isna(row["slope"]) else f"{row['slope']:.2g}"
        typer.echo(
            f"| {name} | {row['kind']} | {row['size']:g} | {row['spearman']:.2f} ({row['low']:.2f} to "
            f"{row['high']:.2f}) | {row['pearson']:.2f} | {slope} | {row['sign']:.2f} |"
        )


if __name__ == "__main__":
    typer.run(main)
