"""How few training images a mistake on the digits hangs on, by the order of several estimators.

Run ``python -m tests.benchmarks.brittleness`` for softmax regression, whose retraining is exact, and with
``--network`` for the demo's network, trained a little further from its own weights without the removed images (from
new weights most of its mistakes are made by no other seed: ``--anew`` counts them).
"""

from __future__ import annotations

import copy
import time
import warnings
from typing import Annotated

import pandas as pd
import torch
import typer
from torch import Tensor, nn

import influence_core as ic
from tests.benchmarks.mislabels import made
from tests.benchmarks.softmax_regression import Exact
from tests.benchmarks.softmax_regression import made as regression

NAMES = ("conjugategradient", "ekfac", "tracin", "gex", "random")


def further(study: ic.Study, kept: Tensor, seed: int) -> nn.Module:
    """The study's network after some more passes over some of its images, from its own weights."""
    model = copy.deepcopy(study.model)
    ic.training.fit(
        model,
        study.train.subset(kept),
        epochs=4,
        learning_rate=0.02,
        batch_size=250,
        weight_decay=study.weight_decay,
        checkpoints=1,
        seed=seed,
    )
    return model


def ranked(study: ic.Study, name: str, ids: Tensor) -> ic.Scores | ic.estimators.Estimator:
    """An estimator, or scores that know nothing."""
    if name != "random":
        return made(name)
    values = torch.randn(len(study.train), len(ids), generator=torch.Generator().manual_seed(0))
    meta = {"estimator": name, "study": study.fingerprint}
    return ic.Scores(values, torch.arange(len(study.train)), "influence", test_ids=ids, meta=meta)


def main(
    mistakes: Annotated[int, typer.Option(help="How many misclassified test images, at most.")] = 20,
    limit: Annotated[int, typer.Option(help="The most images to remove.")] = 128,
    seeds: Annotated[int, typer.Option(help="Trainings for each number; softmax regression needs one.")] = 1,
    network: Annotated[bool, typer.Option(help="The demo's network in place of softmax regression.")] = False,
    anew: Annotated[int, typer.Option(help="Seeds of the network trained anew on everything, to count.")] = 0,
    only: Annotated[list[str] | None, typer.Option(help="Estimators; five by default.")] = None,
) -> None:
    """Remove, retrain and look, and print a table."""
    torch.set_num_threads(1)
    study = ic.demo.digits() if network else regression()
    retrain = further if network else Exact(study)
    ids = study.misclassified()[:mistakes]
    typer.echo(f"{study.name}: {len(ids)} mistakes, limit {limit}, {seeds} seed(s)\n")
    for seed in range(anew):
        model = ic.store.retrainings.by_recipe(study, torch.arange(len(study.train)), seed)
        same = model(study.test.batch(ids)[0]).argmax(1) == study.predictions()[ids]
        typer.echo(f"trained anew with seed {seed}: {int(same.sum())} of {len(ids)} mistakes are made again")
    typer.echo("| estimator | searched | flipped | median removed | mended | predicted / found | seconds |")
    typer.echo("|---|---|---|---|---|---|---|")
    for name in only or NAMES:
        begun = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a solve says of itself is not asked here
            found = ic.evaluation.brittleness(
                study, ranked(study, name, ids), ids, retrain, limit=limit, seeds=range(seeds)
            )
        typer.echo(f"| {name} | {line(found)} | {time.perf_counter() - begun:.0f} |")


def line(found: ic.evaluation.Brittleness) -> str:
    """Counts and medians; images that did not flip within the limit count as more than it. Of ratios quartiles too."""
    table = found.table[found.table["status"] != "flips by itself"]
    k = table["k"].astype("Float64").fillna(float("inf"))
    middle = k.median() if len(k) else float("nan")
    told = f"more than {found.limit}" if middle == float("inf") else f"{middle:g}"
    ratio = (table["predicted_k"] / table["k"]).dropna()
    mended = int((table["becomes"] == table["label"]).sum())
    low, middle_ratio, high = ratio.astype(float).quantile([0.25, 0.5, 0.75])
    predicted = f"{middle_ratio:.2f} ({low:.2f} to {high:.2f})" if len(ratio) else "–"
    return f"{len(table)} | {int(pd.notna(table['k']).sum())} | {told} | {mended} | {predicted}"


if __name__ == "__main__":
    typer.run(main)
