"""The closed loop on the digits study: accuracy before and after ``ic.applications.mend``, and beside its controls.

Run ``python -m tests.benchmarks.mending``; two idle cores take some minutes. Each seed is a study of its own: split,
wrong labels, weights; its model and those that are trained again share the recipe. 20 % of the labels are wrong, either
drawn from all other classes with equal chance, or always the next class (``pairs``), so that what a wrong label says
depends on the class. Suggestions above Otsu's threshold are taken without a review. With ``--store FOLDER`` each
training is kept, and a run that was broken off goes on. ``--data FOLDER`` mends a study that was kept instead
(``tests.benchmarks.cifar10n --study FOLDER``).
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

import influence_core as ic
from influence_core.applications import Mending, mend, paired
from tests.benchmarks.mislabels import made

KINDS = ("uniform", "pairs")
CONTROLS = ("random", "clean")


def flipped(true: Tensor, share: float, seed: int) -> Tensor:
    """A share of the labels of every class changed to the next class."""
    generator = torch.Generator().manual_seed(seed)
    labels = true.clone()
    for k in range(10):
        ids = (true == k).nonzero().flatten()
        chosen = ids[torch.randperm(len(ids), generator=generator)[: round(share * len(ids))]]
        labels[chosen] = (k + 1) % 10
    return labels


def study_of(kind: str, share: float, seed: int, images: int = 1000) -> ic.Study:
    """The digits study with wrong labels of a kind, and with the first so many of its training images."""
    if kind == "uniform" and images == 1000:
        return ic.demo.train_digits(share, seed)
    splits = ic.data.digits(share if kind == "uniform" else 0.0, seed)
    assert splits.train.true_labels is not None
    train = splits.train.subset(range(images))
    if kind == "pairs":
        train = train.with_labels(flipped(splits.train.true_labels[:images], share, seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ic.models.build("small_cnn", channels=1, classes=10)
    trajectory = ic.training.fit(model, train, seed=seed, **ic.demo.RECIPE)
    name = f"{images} handwritten digits, {share:.0%} wrong labels ({kind}), seed {seed}"
    return ic.Study(model, train, splits.test, splits.validation, trajectory, name=name)


def pooled(reports: list[Mending], one: str, other: str) -> str:
    """Gain in points over all studies, with the interval that is paired over studies and test images."""
    differences = [r.outcomes[one].right.double() - r.outcomes[other].right.double() for r in reports]
    return str(paired(torch.cat(differences)))


def accuracy(reports: list[Mending], name: str) -> str:
    """Mean over the studies, and from the lowest to the highest."""
    found = [100 * report.outcomes[name].accuracy for report in reports]
    return f"{sum(found) / len(found):.1f} ({min(found):.1f} to {max(found):.1f})"


def main(
    seeds: Annotated[int, typer.Option(help="How many studies of each kind, from seed 0.")] = 5,
    noise: Annotated[float, typer.Option(help="Share of wrong labels.")] = 0.2,
    only: Annotated[list[str] | None, typer.Option(help="Estimators; labelcontrast and fvm.")] = None,
    images: Annotated[int, typer.Option(help="Training images, of 1000.")] = 1000,
    kind: Annotated[list[str] | None, typer.Option(help="Of wrong labels: uniform, pairs; both.")] = None,
    data: Annotated[Path | None, typer.Option(help="A kept study to mend instead, once.")] = None,
    store: Annotated[Path | None, typer.Option(help="Folder in which trainings are kept.")] = None,
) -> None:
    """Mend every study by every estimator, and print a table for each kind of wrong labels."""
    torch.set_num_threads(1)
    begun = time.perf_counter()
    kept = None if store is None else ic.store.Store(store)
    kinds, count = list(kind or KINDS), seeds
    if data is not None:
        kinds, count = [data.name], 1
    for one in kinds:
        reports: dict[str, list[Mending]] = {name: [] for name in only or ["labelcontrast", "fvm"]}
        for seed in range(count):
            study = study_of(one, noise, seed, images) if data is None else ic.Study.load(data)
            if data is not None:
                assert study.train.corrupted is not None
                images, noise = len(study.train), float(study.train.corrupted.double().mean())
            for name, found in reports.items():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # what a solver has to say of its residual
                    estimator = made(name).fit(study)
                found.append(mend(study, estimator, controls=CONTROLS, seeds=(1000 + seed,), store=kept))
            typer.echo(f"{one}, seed {seed}: done after {time.perf_counter() - begun:.0f} s", err=True)
        typer.echo(
            f"\n{noise:.0%} wrong labels, {one}; {count} studies of {images} images, mean (lowest to highest), "
            "per cent:\n"
        )
        typer.echo("| estimator | relabelled | of these right | before | mended | as many at random | clean labels |")
        typer.echo("|---|---|---|---|---|---|---|")
        for name, found in reports.items():
            changed = sum(len(r.images) for r in found)
            right = sum(int((r.images["new_label"] == r.images["true_label"]).sum()) for r in found)
            cells = " | ".join(accuracy(found, arm) for arm in ("given", "mended", *CONTROLS))
            typer.echo(f"| {name} | {changed / len(found):.0f} | {100 * right / changed:.1f} | {cells} |")
        for name, found in reports.items():
            against = {"given": "before", "random": "random", "clean": "clean labels"}
            said = [f"{pooled(found, 'mended', arm)} against {words}" for arm, words in against.items()]
            typer.echo(f"\n{name}, mended: {'; '.join(said)}")
    typer.echo(f"\n{time.perf_counter() - begun:.0f} s in all", err=True)


if __name__ == "__main__":
    typer.run(main)
