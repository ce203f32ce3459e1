"""Scores of outputs alone on published out-of-fold probabilities of CIFAR-10: the section of RESULTS.md.

Run ``python -m tests.benchmarks.out_of_fold --data FOLDER``; the folder holds ``oof_probabilities.npz``. No model is
trained: it takes a minute. These probabilities were known when the prior margin was chosen, so that they are no proof.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from influence_core.estimators import label_margins

NOISES = ("worst", "aggregate", "synthetic")
RESAMPLES = 200
CONTROL = "loss"

Floats = NDArray[np.float64]


def scores(logs: Tensor, given: Tensor) -> Iterator[tuple[str, Floats]]:
    """Every score of the given labels, by name."""
    uniform = torch.full((logs.shape[1],), 1 / logs.shape[1], dtype=torch.float64)
    priors = {
        "given labels": torch.bincount(given, minlength=logs.shape[1]).double() / len(given),
        "mean prediction": logs.exp().mean(0),
    }
    yield CONTROL, -logs.gather(1, given[:, None])[:, 0].numpy()
    yield "margin", label_margins(logs).gather(1, given[:, None])[:, 0].numpy()
    for name, prior in priors.items():
        found = label_margins(logs, prior, uniform).gather(1, given[:, None])[:, 0].numpy()
        yield f"prior margin, prior of the {name}", found


def main(
    data: Annotated[Path, typer.Option(help="Folder of oof_probabilities.npz.")],
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Judge every score on the three kinds of noise, with paired differences to the loss."""
    typer.echo(f"{RESAMPLES} resamples of images, seed {seed}; in per cent.\n")
    typer.echo("| noise | score | AUC | AP | AP less the loss's |\n|---|---|---|---|---|")
    with np.load(data / "oof_probabilities.npz", allow_pickle=False) as found:
        kinds = {kind: [found[f"{kind}_{what}"] for what in ("log_probabilities", "given", "true")] for kind in NOISES}
    for kind, (logs, given, true) in kinds.items():
        outputs = torch.from_numpy(logs.astype(np.float64)).clamp_min(-50).log_softmax(1)
        labels, wrong = torch.from_numpy(given.astype(np.int64)), given != true
        generator = np.random.default_rng(seed)
        drawn = [generator.integers(0, len(wrong), len(wrong)) for _ in range(RESAMPLES)]
        control: Floats | None = None
        for name, values in scores(outputs, labels):
            aps = np.array([average_precision_score(wrong[ids], values[ids]) for ids in drawn])
            auc, ap = roc_auc_score(wrong, values), average_precision_score(wrong, values)
            if control is None:
                control, gain = aps, ""
            else:
                low, high = np.percentile(100 * (aps - control), [2.5, 97.5])
                gain = f"{100 * (aps - control).mean():+.2f} ({low:+.2f} to {high:+.2f})"
            typer.echo(f"| {kind}, {wrong.mean():.1%} wrong | {name} | {100 * auc:.2f} | {100 * ap:.2f} | {gain} |")


if __name__ == "__main__":
    typer.run(main)
