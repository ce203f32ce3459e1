"""Linear datamodelling scores of every estimator on the digits study, as a Markdown table.

Run ``python -m tests.benchmarks.lds``; the defaults take some minutes on one core. Each seed is a study of its own
(split, wrong labels, weights) with its own subsets; the models on subsets are trained as the study's was. Estimators
that solve anew for each test image are judged by fewer of them.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

import influence_core as ic
from influence_core.evaluation import LDS, combine, draw_subsets, lds, retrain_subsets
from tests.benchmarks.mislabels import made

VARIANTS = (
    "conjugategradient damping=validation",
    "conjugategradient tolerance=0.0001",
    "conjugategradient tolerance=0.0001 damping=0.1",
    "conjugategradient tolerance=0.0001 damping=validation",
    "conjugategradient tolerance=0.01",
    "ekfac damping=0.1",
    "ekfac damping=0.03",
    "lissa preconditioner=None steps=100",
    "lissa preconditioner=None steps=100 damping=0.1",
    "lissa preconditioner=None steps=20",
    "lissa steps=5",
    "samhif tolerance=0.0001",
    "samif tolerance=0.0001",
    "samif tolerance=0.0001 damping=0.1",
)
"""Settings beside the defaults: solves plain and preconditioned, to the end or not, with each kind of damping."""

SLOW = {"lissa", "samhif"}
"""Estimators that are judged by fewest test images: a hundred products for each, or two curvatures."""


def retrain(study: ic.Study, kept: Tensor, seed: int) -> nn.Module:
    """The digits' network from new weights, trained on some of the images by the recipe of the study."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 + seed)
        model = ic.models.build("small_cnn", channels=1, classes=10)
        ic.training.fit(model, study.train.subset(kept), seed=1000 + seed, **(ic.demo.RECIPE | {"checkpoints": 1}))
    return model


def main(
    subsets: Annotated[int, typer.Option(help="Subsets per seed.")] = 50,
    seeds: Annotated[int, typer.Option(help="How many studies, from seed 0.")] = 3,
    models: Annotated[int, typer.Option(help="Models per subset, whose losses are averaged.")] = 1,
    share: Annotated[float, typer.Option(help="Share of the training images in a subset.")] = 0.5,
    tests: Annotated[int, typer.Option(help="How many test images.")] = 497,
    solved_tests: Annotated[int, typer.Option(help="How many of them where each is solved for.")] = 100,
    slow_tests: Annotated[int, typer.Option(help="How many of them for the slowest.")] = 20,
    noise: Annotated[float, typer.Option(help="Share of wrong labels.")] = 0.1,
    only: Annotated[list[str] | None, typer.Option(help='Estimators, such as "ekfac damping=0.01"; all.')] = None,
) -> None:
    """Retrain on random subsets once per seed, and judge every estimator with its defaults by them."""
    torch.set_num_threads(1)
    names = [c.name for c in ic.estimators.all_estimators() if "influence" in c.gives()]
    names = list(only) if only else [*names, *VARIANTS]
    found: dict[str, list[LDS]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    training = 0.0
    for seed in range(seeds):
        study = ic.demo.train_digits(noise, seed)
        kept = draw_subsets(len(study.train), subsets, share, seed)
        retrained = retrain_subsets(study, retrain, kept, range(tests), seeds=range(models))
        training += retrained.meta["seconds"]
        for name in names:
            begun = time.perf_counter()
            estimator = made(name)
            count = slow_tests if name.split()[0] in SLOW else solved_tests if estimator.solves_each_query else tests
            judge = dataclasses.replace(
                retrained, losses=retrained.losses[:, :count], test_ids=retrained.test_ids[:count]
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what a solve says of itself is not asked here
                found[name].append(lds(study, estimator, judge))
            seconds[name].append(time.perf_counter() - begun)
    typer.echo(
        f"Digits, {noise:.0%} wrong labels, seeds 0 to {seeds - 1}, {subsets} subsets of {share:.0%} each, "
        f"{models} model(s) per subset, {tests} test images; {training:.0f} s of retraining\n"
    )
    typer.echo("| estimator | LDS (95 % interval) | each seed | test images | seconds per study |")
    typer.echo("|---|---|---|---|---|")
    for name in sorted(names, key=lambda n: -combine(found[n]).value):
        mean = combine(found[name])
        each = ", ".join(f"{100 * part.value:.1f}" for part in found[name])
        cost = sum(seconds[name]) / len(found[name])
        count = len(mean.per_test) // len(found[name])
        typer.echo(f"| {name} | {100 * mean.value:.1f} ({mean.interval}) | {each} | {count} | {cost:.1f} |")


if __name__ == "__main__":
    typer.run(main)
