"""What several gradient estimators of one study cost together, beside each alone, as a Markdown table.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python -m tests.benchmarks.together

The bundled digits with their last checkpoint alone, so that all sweeps are of one model. Each estimator is fitted and
asked for the influence on all mistakes, alone and with those above it through ``fit_all`` and ``ask_all``, in turns;
numbers are compared before times are told. ``further`` is what it adds to those above it, over what the dearest takes
alone: the target is a quarter.
"""

from __future__ import annotations

import statistics
from typing import Annotated

import torch
import typer
from torch import Tensor

import influence_core as ic
from tests.benchmarks.estimators import timed
from tests.benchmarks.mislabels import made

NAMES = ("ekfac", "trak", "datainf", "tracin", "randproj", "lastlayer")


def answers(study: ic.Study, names: list[str], together: bool) -> list[Tensor]:
    """The influence on all mistakes, by each."""
    asked = study.misclassified()
    if not together:
        return [made(name).fit(study).influence(asked).values for name in names]
    fitted = ic.estimators.fit_all(study, [made(name) for name in names])
    return [scores.values for scores in ic.estimators.ask_all(fitted, "influence", asked)]


def main(
    only: Annotated[list[str] | None, typer.Option(help="Estimators, the dearest first.")] = None,
    repeats: Annotated[int, typer.Option(help="Of each, in turns; medians count.")] = 3,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 1,
) -> None:
    """Time them in turns."""
    torch.set_num_threads(threads)
    study = ic.demo.digits()
    study = study.replaced(trajectory=study.trajectory[-1:])  # type: ignore[index]  # the digits have one
    _ = study.fingerprint, study.misclassified()
    names = only or list(NAMES)
    alone: dict[str, list[float]] = {name: [] for name in names}
    joint: dict[int, list[float]] = {count: [] for count in range(1, len(names) + 1)}
    for _ in range(repeats):
        for name in names:
            alone[name].append(timed(lambda n=name: answers(study, [n], together=False))[1])  # type: ignore[misc]
        for count in joint:
            joint[count].append(timed(lambda c=count: answers(study, names[:c], together=True))[1])  # type: ignore[misc]
    for name, one, two in zip(names, answers(study, names, False), answers(study, names, True), strict=True):
        error = float((one - two).norm() / one.norm())
        if not error < 1e-4:
            raise SystemExit(f"{name} is not the same alone and together: {error:.1e}")
    dearest = max(statistics.median(seconds) for seconds in alone.values())
    typer.echo(f"{threads} thread(s), {repeats} repeats, processor seconds\n")
    typer.echo("| with those above | alone, s | one after the other, s | together, s | further |")
    typer.echo("|---|---|---|---|---|")
    in_turn = before = 0.0
    for count, name in enumerate(names, start=1):
        own, all_of_them = statistics.median(alone[name]), statistics.median(joint[count])
        in_turn += own
        further = f"{(all_of_them - before) / dearest:+.0%}" if count > 1 else ""
        typer.echo(f"| {name} | {own:.2f} | {in_turn:.2f} | {all_of_them:.2f} | {further} |")
        before = all_of_them


if __name__ == "__main__":
    typer.run(main)
