"""Receipts on the digits study: what estimators predict of removals, new labels and weights, and what training shows.

Run ``python -m tests.benchmarks.receipts``. Changes are drawn without looking at any outcome: wrong labels, random
images and images of one class are left out or weighted anew, and labels are mended or spoilt. Every estimator predicts
each of them (``ic.applications.what_if``); the trainings, with and without, are the same for all and kept with
``--store FOLDER``. The warning, of the prediction or of its range, is asked of every receipt with all others known: it
is right if it warns of a prediction that was wrong, or lets one through that was right; what the trainings do not tell
is left out.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer

import influence_core as ic
from influence_core.applications import Receipt, calibration, in_range, what_if
from tests.benchmarks.mending import study_of
from tests.benchmarks.mislabels import made

NAMES = ("ekfac", "lastlayer", "conjugategradient")


def changes(study: ic.Study, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Changes of the training set by name, as arguments of ``what_if``.

    Args:
        study: with true labels.
        seed: of what is drawn.

    Yields:
        Words for the table, and the arguments.
    """
    train, count = study.train, len(study.train)
    assert train.true_labels is not None
    assert train.corrupted is not None
    wrong = train.corrupted.nonzero().flatten()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    for share in (0.25, 0.5, 1.0):
        some = wrong[: max(1, round(share * len(wrong)))]
        yield f"{len(some)} wrong labels left out", {"ids": some}
        right = dict(zip(some.tolist(), train.true_labels[some].tolist(), strict=True))
        yield f"{len(some)} wrong labels mended", {"ids": list(right), "action": "relabel", "labels": right}
    for share in (0.02, 0.1, 0.3):
        some = order[: round(share * count)]
        yield f"{len(some)} images at random left out", {"ids": some}
    for share in (0.02, 0.1):
        some = order[: round(share * count)].tolist()
        spoilt = {i: (int(train.labels[i]) + 1) % 10 for i in some}
        yield f"{len(some)} labels spoilt", {"ids": some, "action": "relabel", "labels": spoilt}
    for digit, share in ((8, 0.5), (3, 1.0)):
        own = (train.labels == digit).nonzero().flatten()
        some = own[: round(share * len(own))]
        yield f"{len(some)} images called {digit} left out", {"ids": some}
    yield f"{len(wrong)} wrong labels weigh half", {"ids": wrong, "action": "reweight", "weights": 0.5}


def main(
    seed: Annotated[int, typer.Option(help="Of the study and of what is drawn.")] = 0,
    noise: Annotated[float, typer.Option(help="Share of wrong labels.")] = 0.1,
    images: Annotated[int, typer.Option(help="Training images, of 1000.")] = 1000,
    trainings: Annotated[int, typer.Option(help="Seeds of every training.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="Estimators.")] = None,
    store: Annotated[Path | None, typer.Option(help="Folder in which trainings are kept.")] = None,
    figure: Annotated[Path | None, typer.Option(help="An HTML file for the figure.")] = None,
) -> None:
    """Predict, train, and print a row for every receipt and every estimator."""
    torch.set_num_threads(1)
    begun, study = time.perf_counter(), study_of("uniform", noise, seed, images)
    found: list[tuple[str, float | None, bool, Receipt]] = []
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a solver has to say of its residual
        kept = ic.store.Store(folder if store is None else store)
        for name in only or NAMES:
            estimator = made(name).fit(study)
            scores = estimator.influence()
            for words, asked in changes(study, seed):
                prediction = what_if(study, estimator, scores=scores, **asked)
                unlike = bool(prediction.warnings())
                found.append((words, prediction.step, unlike, prediction.verify(range(trainings), kept)))
                typer.echo(f"{name}, {words}: {time.perf_counter() - begun:.0f} s", err=True)
    every = [receipt for *_, receipt in found]
    rows = calibration(every).table
    typer.echo(
        "| change | estimator | step | predicted, nats | trained again | correlation | slope | reliability | "
        "correlation without noise | right | warned |"
    )
    typer.echo(f"|{11 * '---|'}")
    agreed = []
    for number, (words, step, unlike, receipt) in enumerate(found):
        row, others = rows.iloc[number], every[:number] + every[number + 1 :]
        warned = unlike or in_range(receipt, others) is not None
        if row["right"] is not None:
            agreed.append(warned != row["right"])
        assert receipt.actual is not None
        means = [sum(side) / len(side) for side in (receipt.predicted, receipt.actual)]
        cells = [words, receipt.estimator, _share(step), *(f"{mean:+.4f}" for mean in means)]
        cells += [f"{row['correlation']:.2f}", f"{row['slope']:.2f}"]
        right = "nobody knows" if row["right"] is None else "yes" if row["right"] else "no"
        cells += [f"{row['reliability']:.2f}", f"{row['corrected']:.2f}", right, "yes" if warned else "no"]
        typer.echo(f"| {' | '.join(cells)} |")
    typer.echo("")
    for name in only or NAMES:
        typer.echo(f"{name}: {calibration([r for r in every if r.estimator == name]).sentences()[0]}\n")
    typer.echo(f"The warning is right for {sum(agreed)} of {len(agreed)} receipts.")
    if figure is not None:
        calibration(every).figure().write_html(figure, include_plotlyjs="cdn")


def _share(step: float | None) -> str:
    return "" if step is None else "1" if step == 1 else "0" if not step else f"1/{round(1 / step)}"


if __name__ == "__main__":
    typer.run(main)
