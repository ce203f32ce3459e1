"""How far each estimator's edit can be trusted on the bundled study, and what the rest of it would do.

Run ``python -m tests.benchmarks.trusted_steps``; some minutes on one core, as it fits every estimator.
"""

from __future__ import annotations

import warnings
from typing import Annotated, Any

import torch
import typer

import influence_core as ic
from influence_core.applications import trusted_step
from influence_core.estimators.changes import data_change
from tests.benchmarks.mislabels import made

NAMES = ("ekfac", "lastlayer", "conjugategradient", "samif", "lissa", "datainf")


def changes(study: ic.Study) -> dict[str, dict[str, Any]]:
    """Changes by name, as arguments of ``parameter_change``; the suspicious ones are PriorMargin's."""
    suspects = ic.estimators.PriorMargin().fit(study).mislabel_scores().values.argsort(descending=True).tolist()
    given, true = study.train.labels, study.train.true_labels
    assert true is not None
    return {
        "one image left out": {"remove": [0]},
        "20 suspects left out": {"remove": suspects[:20]},
        "97 suspects left out": {"remove": suspects[:97]},
        "the class 8 left out": {"remove": (given == 8).nonzero().flatten()},
        "20 suspects mended": {"relabel": {i: int(true[i]) for i in suspects[:20] if true[i] != given[i]}},
        "3 labels spoilt": {"relabel": {i: (int(given[i]) + 1) % 10 for i in (3, 17, 50)}},
    }


def main(only: Annotated[list[str] | None, typer.Option(help="Estimators.")] = None) -> None:
    """Print a row for each change, and a column for each estimator."""
    torch.set_num_threads(1)
    study, names = ic.demo.digits(), only or list(NAMES)
    rows: dict[str, list[str]] = {}
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a solver has to say of its residual
            estimator = made(name).fit(study)
            for words, asked in changes(study).items():
                whole = estimator.parameter_change(**asked)
                step = trusted_step(study, whole, data_change(study.train, study.classes, **asked))
                after = study.edited({key: step * delta for key, delta in whole.items()}).accuracy()
                rows.setdefault(words, []).append(
                    f"{'1' if step == 1 else f'1/{round(1 / step)}' if step else '0'}: {100 * after:.1f}"
                    + ("" if step == 1 else f" (whole: {100 * study.edited(whole).accuracy():.1f})")
                )
    typer.echo(f"Test accuracy now: {100 * study.accuracy():.1f}\n")
    typer.echo(f"| change | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for words, cells in rows.items():
        typer.echo(f"| {words} | {' | '.join(cells)} |")


if __name__ == "__main__":
    typer.run(main)
