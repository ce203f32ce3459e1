"""The command line: work that is better done outside a notebook or the app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from influence_core import demo

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Training-data attribution for image classifiers.")


@app.callback()
def main() -> None:
    """Training-data attribution for image classifiers."""


@app.command()
def demo_study(
    out: Annotated[Path, typer.Option(help="Folder to write study.toml and its tensors to.")] = demo.BUNDLED,
    noise: Annotated[float, typer.Option(help="Share of training labels to change, 0 to 1.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the split, the noise and the training.")] = 0,
) -> None:
    """Train the study of handwritten digits and write it; the defaults make the bundled one again."""
    torch.set_num_threads(1)  # sums in one order, so that it is the same to the last bit; this process is ours alone
    study = demo.train_digits(noise, seed)
    typer.echo(f"{study.save(out)}: {study}, test accuracy {study.accuracy():.3f}")


if __name__ == "__main__":
    app()
