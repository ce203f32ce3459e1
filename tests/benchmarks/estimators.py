"""How long every estimator takes on the bundled digits: fit, 16 test images, mislabel scores and label scores.

Run ``python -m tests.benchmarks.estimators``; seconds are those of the clock and, behind them, of the processor. What
an estimator does not give is a dash.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Annotated

import torch
import typer

import influence_core as ic
from tests.benchmarks.mislabels import made


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the clock and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


def main(
    only: Annotated[list[str] | None, typer.Option(help='Estimators, such as "samhif tolerance=0.01"; all.')] = None,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 2,
    tests: Annotated[int, typer.Option(help="Test images.")] = 16,
) -> None:
    """Time them one after the other."""
    torch.set_num_threads(threads)
    study = ic.demo.digits()
    _ = study.fingerprint, study.misclassified()
    names = only or [cls.name for cls in ic.estimators.all_estimators()]
    typer.echo(f"{threads} threads, {tests} test images\n\n| estimator | fit | influence | mislabel | labels | sum |")
    typer.echo("|---|---|---|---|---|---|")
    for name in names:
        estimator = made(name)
        asked: list[tuple[str, Callable[[], object]]] = [
            ("influence", lambda e=estimator: e.influence(range(tests))),
            ("mislabel_scores", lambda e=estimator: e.mislabel_scores()),
            ("label_influence", lambda e=estimator: e.label_influence()),
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spent = [timed(lambda e=estimator: e.fit(study))]
            for what, call in asked:
                spent.append(timed(call) if what in estimator.gives() else (0.0, 0.0))
        cells = [f"{wall:.1f} ({processor:.1f})" if processor else "-" for wall, processor in spent]
        total = f"{sum(w for w, _ in spent):.1f} ({sum(p for _, p in spent):.1f})"
        typer.echo(f"| {name} | {' | '.join(cells)} | {total} |")


if __name__ == "__main__":
    typer.run(main)
