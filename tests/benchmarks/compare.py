"""Which estimator to believe on the digits: the table of ``ic.evaluation.compare`` as Markdown.

Run ``python -m tests.benchmarks.compare``. The bundled study, its misclassified test images, and the models on random
halves trained by its own recipe; ``--removal`` and ``--stability`` train more. ``--keep FOLDER`` keeps every finished
training, so that what was broken off goes on.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

import influence_core as ic
from tests.benchmarks.mislabels import made

ESTIMATORS = ("ekfac", "conjugategradient", "lastlayer", "trak", "tracin", "gex", "fvm", "samif", "random")

QUANTITIES = {
    "LDS, %": "lds_{}percent",
    "AP, %": "ap_{}percent",
    "AUC, %": "auc_{}percent",
    "without the top helpful, nats": "helpful_removed_{}nats",
    "without the top harmful, nats": "harmful_removed_{}nats",
}
"""Heading -> columns of a number with its interval."""


def main(
    subsets: Annotated[int, typer.Option(help="Random halves to train on.")] = 50,
    tests: Annotated[int, typer.Option(help="Test images: the misclassified ones, and others up to so many.")] = 100,
    removal: Annotated[float, typer.Option(help="Share of the images to train without; 0 for not at all.")] = 0.0,
    seeds: Annotated[int, typer.Option(help="Trainings of each.")] = 1,
    stability: Annotated[str, typer.Option(help="An estimator whose stability and sanity is looked at too.")] = "",
    keep: Annotated[Path | None, typer.Option(help="Folder of finished trainings.")] = None,
    only: Annotated[list[str] | None, typer.Option(help='Estimators, such as "ekfac damping=0.1".')] = None,
) -> None:
    """Compare estimators on the bundled digits, and print what the report says."""
    torch.set_num_threads(1)
    study = ic.demo.digits()
    wrong = study.misclassified()
    others = torch.arange(len(study.test))
    others = others[~torch.isin(others, wrong)]
    ids = torch.cat([wrong, others])[:tests].sort().values
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a solve says of itself is not asked here
        report = ic.evaluation.compare(
            study,
            [made(name) for name in only or ESTIMATORS],
            test=ids,
            retrained=subsets or None,
            removal=removal or None,
            seeds=range(seeds),
            store=None if keep is None else ic.store.Store(keep),
        )
    retrained = f"; {report.retrained.meta['seconds']:.0f} s of training on halves" if report.retrained else ""
    typer.echo(f"{report!r}, {time.perf_counter() - begun:.0f} s in all{retrained}\n")
    typer.echo(markdown(report.table))
    typer.echo("\n" + "\n".join(f"- {sentence}" for sentence in report.sentences()))
    if stability:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            over = (ic.evaluation.rank_stability(study, stability, seeds) for seeds in ((0, 1, 2), "trajectory"))
            checks = ic.evaluation.sanity_checks(study, [stability, "random"])
            told = [sentence for one in (*over, checks) for sentence in one.sentences()]
        typer.echo("\n" + "\n".join(f"- {sentence}" for sentence in told))


def markdown(table: pd.DataFrame) -> str:
    """Rows by LDS, or as they are without it; a dash where there is no number."""
    rows = table.sort_values("lds_percent", ascending=False) if "lds_percent" in table else table
    quantities = {head: form for head, form in QUANTITIES.items() if form.format("") in table}
    others = {
        "shared with the others, % of the top 10": "top_10_shared_percent",
        "seconds: fit": "fit_seconds",
        "influence": "influence_seconds",
        "suspicion": "mislabel_seconds",
        "expected (fit, influence)": "expected_seconds",
        "MiB": "peak_memory_mib",
    }
    lines = [
        f"| estimator | {' | '.join([*quantities, *others])} |",
        "|" + "---|" * (1 + len(quantities) + len(others)),
    ]
    for row in rows.to_dict("records"):
        cells = [_with_interval(row, form) for form in quantities.values()]
        cells += ["-" if pd.isna(row[column]) else f"{row[column]:.3g}" for column in others.values()]
        lines.append(f"| {row['estimator']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _with_interval(row: dict[str, float], form: str) -> str:
    value, low, high = (row[form.format(end)] for end in ("", "low_", "high_"))
    if pd.isna(value):
        return "-"
    digits = 1 if "percent" in form else 3
    interval = "" if pd.isna(low) else f" ({low:.{digits}f} to {high:.{digits}f})"
    return f"{value:.{digits}f}{interval}"


if __name__ == "__main__":
    typer.run(main)
