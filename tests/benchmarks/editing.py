"""Edits of the weights after a removal, beside no edit and retraining, on the digits study, as Markdown tables.

Run ``python -m tests.benchmarks.editing``; the defaults take some minutes on one core. Two removals: all wrong labels,
and all images with one label. Every edit is scaled on the validation set, those of all weights as well, and judged on
the test set: by its accuracy there (without the class that was removed), by the share of the removed images whose given
label is still predicted, and by the harmonic mean of the two (``modified_f1``).
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import torch
import typer
from torch import Tensor

import influence_core as ic
from influence_core.applications import trusted_step
from influence_core.estimators.changes import data_change
from influence_core.estimators.edits.scale import SCALES, modified_f1, validated_scale
from influence_core.study import model_outputs
from tests.benchmarks.lds import retrain
from tests.benchmarks.mislabels import made

Row = tuple[float, float, float, float, float]
"""Self accuracy, test accuracy, modified F1, scale, seconds."""

FINE = tuple(2.0**power for power in range(-16, 9))
"""Scales down to 1/65536: where hundreds of labels change, a step that is right for one image is far too long."""

WHOLE = {name: name for name in ("ekfac", "conjugategradient max_iterations=40", "samhif max_iterations=10", "samgif")}
"""Edits of all weights: title -> estimator. Solves are cut short; a step of SAMHIF's takes two products."""

DAMPED = {f"{name} damping=10": f"{name} damping=10" for name in WHOLE if name != "samgif"}
"""The same with far more damping, whose edits are shorter."""


def edits(ratios: Iterable[float], iterations: int, settings: str = "") -> dict[str, str]:
    """All edits, GIF, FIF and PIF in shares of each layer's weights: title -> estimator as ``made`` takes it."""
    partial = {
        f"{name} ratio={ratio:g}": f"{name} ratio={ratio} max_iterations={iterations} scale=1.0 {settings}"
        for ratio in ratios
        for name in ("gif", "fif", "pif")
    }
    return partial | WHOLE


def judge(study: ic.Study, model: torch.nn.Module, removed: Tensor, gone: int | None) -> tuple[float, float, float]:
    """Accuracy on the removed images, on the test images of other classes, and their modified F1."""
    own = model_outputs(model, study.train, removed).argmax(1) == study.train.labels[removed]
    right = model_outputs(model, study.test).argmax(1) == study.test.labels
    kept, accuracy = float(own.double().mean()), float(right[study.test.labels != gone].double().mean())
    return kept, accuracy, modified_f1(kept, accuracy)


def edited(
    study: ic.Study,
    name: str,
    removed: Tensor,
    relabelled: Mapping[int, int] | None = None,
    scales: Sequence[float] | None = SCALES,
) -> tuple[torch.nn.Module, float, float]:
    """The model after one edit with its scale from the validation set, or without any from the training loss.

    Args:
        study: to edit.
        name: of the estimator, with settings.
        removed: ids of the images that are left out.
        relabelled: id -> label of those that get another.
        scales: to choose from on the validation set; ``None`` for ``trusted_step``.

    Returns:
        The model, the scale, and seconds.
    """
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an edit that does no better is in the table
        asked = {"remove": removed if len(removed) else None, "relabel": relabelled}
        change = made(name).fit(study).parameter_change(**asked)  # type: ignore[arg-type]
    if scales is None:
        scale = trusted_step(study, change, data_change(study.train, study.classes, **asked))  # type: ignore[arg-type]
    else:
        scale = validated_scale(study, change, removed, relabelled, scales)[0]
    seconds = time.perf_counter() - begun
    return study.edited({name: scale * delta for name, delta in change.items()}).model, scale, seconds


def main(
    seeds: Annotated[int, typer.Option(help="How many studies, from the first seed.")] = 3,
    first: Annotated[int, typer.Option(help="The first seed.")] = 0,
    label: Annotated[int, typer.Option(help="The class to remove.")] = 8,
    noise: Annotated[float, typer.Option(help="Share of wrong labels.")] = 0.1,
    ratio: Annotated[list[float] | None, typer.Option(help="Shares of each layer; 0.1 and 1 by default.")] = None,
    iterations: Annotated[int, typer.Option(help="Of GIF, FIF and PIF.")] = 20,
) -> None:
    """Edit every study twice with every estimator."""
    torch.set_num_threads(1)
    rows: dict[str, dict[str, list[Row]]] = {"wrong labels": defaultdict(list), f"label {label}": defaultdict(list)}
    for seed in range(first, first + seeds):
        study = ic.demo.train_digits(noise, seed)
        corrupted = study.train.corrupted
        assert corrupted is not None
        for task, gone, mask in (
            ("wrong labels", None, corrupted),
            (f"label {label}", label, study.train.labels == label),
        ):
            removed = mask.nonzero().flatten()
            found = rows[task]
            found["control: no edit"].append((*judge(study, study.model, removed, gone), 0.0, 0.0))
            begun = time.perf_counter()
            again = retrain(study, (~mask).nonzero().flatten(), seed)
            found["control: retrained"].append(
                (*judge(study, again, removed, gone), 1.0, time.perf_counter() - begun),
            )
            for title, name in edits(ratio or [0.1, 1.0], iterations).items():
                model, *rest = edited(study, name, removed)
                found[title].append((*judge(study, model, removed, gone), *rest))
            typer.echo(f"seed {seed}, {task}: done", err=True)
    for task, found in rows.items():
        typer.echo(
            f"\nRemoved: {task}; digits, {noise:.0%} wrong labels, seeds {first} to {first + seeds - 1}: ", nl=False
        )
        typer.echo("mean (lowest to highest)\n")
        typer.echo("| edit | self accuracy | test accuracy | modified F1 | scales | seconds |")
        typer.echo("|---|---|---|---|---|---|")
        for name, each in found.items():
            own, test, f1, scales, seconds = zip(*each, strict=True)
            cells = [_cell(own), _cell(test), _cell(f1), ", ".join(f"{s:g}" for s in scales)]
            typer.echo(f"| {name} | {' | '.join(cells)} | {statistics.mean(seconds):.1f} |")


def _cell(values: tuple[float, ...]) -> str:
    percent = [100 * v for v in values]
    return f"{statistics.mean(percent):.1f} ({min(percent):.1f} to {max(percent):.1f})"


if __name__ == "__main__":
    typer.run(main)
