"""Editing a SAM-trained network: what removing training images by a change of the weights does to the test set.

Run ``python -m tests.benchmarks.sam_editing``; the defaults take two to three minutes on one core. Beside each edit
stand the model without any edit and the model retrained without the images. The best damping is not known beforehand:
judge it by the column of the validation set, which is clean, and not by the test set.
"""

from __future__ import annotations

import time
import warnings
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

import influence_core as ic
from influence_core.estimators import EKFAC, SAMGIF, SAMHIF, SAMIF, ConjugateGradient, Estimator


def retrain(study: ic.Study, kept: Tensor, seed: int) -> nn.Module:
    """The digits' network from its first weights, trained by its recipe on some of the images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ic.models.build("small_cnn", channels=1, classes=10)
        ic.training.fit(model, study.train.subset(kept), seed=seed, **ic.demo.RECIPE)
    return model


def editors(damping: list[float], iterations: int) -> list[tuple[str, Estimator]]:
    """The estimators to compare, by the name of their row."""
    found: list[tuple[str, Estimator]] = []
    for d in damping:
        solver = {"damping": d, "max_iterations": iterations}
        found += [
            (f"EKFAC, damping {d:g}", EKFAC(damping=d)),
            (f"ConjugateGradient, damping {d:g}", ConjugateGradient(**solver)),
            (f"SAMIF, damping {d:g}", SAMIF(**solver)),
            (f"SAMHIF full, damping {d:g}", SAMHIF(**solver)),
            (f"SAMHIF paper, damping {d:g}", SAMHIF(variant="paper", **solver)),
        ]
    return [
        *found,
        ("SAMGIF", SAMGIF()),
        ("SAMGIF, last checkpoint, no momentum", SAMGIF(last=1, momentum=0.0)),
    ]


def row(name: str, study: ic.Study, moved: float, seconds: float) -> str:
    """A row of the table."""
    losses = [float(study.losses(split).mean()) for split in ("test", "validation")]
    return f"| {name} | {study.accuracy():.4f} | {losses[0]:.4f} | {losses[1]:.4f} | {moved:.2f} | {seconds:.1f} |"


def main(
    damping: Annotated[list[float] | None, typer.Option(help="Relative dampings; 0.1 and 10 by default.")] = None,
    iterations: Annotated[int, typer.Option(help="Products for each solve.")] = 40,
    harmful: Annotated[
        int, typer.Option(help="Remove so many images of the highest EKFAC score; 0: wrong labels.")
    ] = 0,
    noise: Annotated[float, typer.Option(help="Share of wrong labels.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the study.")] = 0,
) -> None:
    """Remove the images with wrong labels, or those that look so, by every estimator."""
    torch.set_num_threads(1)
    study = ic.demo.digits(noise, seed)
    wrong = study.train.corrupted
    if wrong is None:
        raise RuntimeError("the digits study knows which labels are wrong")
    removed = wrong.nonzero().flatten()
    if harmful:
        removed = EKFAC().fit(study).mislabel_scores().values.topk(harmful).indices.sort().values
    kept = torch.ones(len(study.train), dtype=torch.bool)
    kept[removed] = False
    typer.echo(
        f"Digits, {noise:.0%} wrong labels, seed {seed}: {len(removed)} images removed, "
        f"{int(wrong[removed].sum())} of them with wrong labels; at most {iterations} products a solve\n"
    )
    typer.echo("| edit | test accuracy | test loss | validation loss | length of the change | seconds |")
    typer.echo("|---|---|---|---|---|---|")
    typer.echo(row("none", study, 0.0, 0.0))
    begun = time.perf_counter()
    again = study.replaced(model=retrain(study, kept.nonzero().flatten(), seed))
    pairs = zip(study.model.parameters(), again.model.parameters(), strict=True)
    moved = float(sum((a - b).detach().square().sum() for a, b in pairs)) ** 0.5
    typer.echo(row("retrained without them", again, moved, time.perf_counter() - begun))
    for name, estimator in editors(damping or [0.1, 10.0], iterations):
        begun = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cut short on purpose
            change = estimator.fit(study).parameter_change(removed)
        seconds = time.perf_counter() - begun
        moved = float(sum(delta.square().sum() for delta in change.values())) ** 0.5
        typer.echo(row(name, study.edited(change), moved, seconds))


if __name__ == "__main__":
    typer.run(main)
