"""The walks of the notebooks, lines and seconds: ``python -m tests.benchmarks.walks [--data FOLDER]``.

Each walk of ``assets/notebooks`` runs on the small data that it makes. With ``--data``, the folder of CIFAR-10N's
Parquet files, those of an image folder and of a CSV run on 2,000 JPEGs of it besides, with ResNet-18 and a small CNN at
32 x 32 pixels.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

import influence_core as ic
from tests import walks
from tests.benchmarks.open_study import PICTURES, export

ON_PICTURES = ("image_folder", "table_and_weights")


def row(name: str, what: str, folder: Path, data: bool = True) -> str:
    """Run a walk, and look at its table."""
    seconds = walks.run(name, folder, data, {"(16, 16)": "(32, 32)"} if not data else None)
    table = ic.applications.read_relabels(folder / "relabel.csv")
    study = ic.Study.load(folder / "my_study", trust=True)
    size = sum(file.stat().st_size for file in (folder / "my_study").iterdir() if file.suffix == ".toml")
    example = table.iloc[0]["filepath"] or table.iloc[0]["sample_id"]
    parts = [name, what, len(walks.lines(name)), f"{seconds['training']:.0f}", f"{seconds['walk']:.1f}"]
    return " | ".join(map(str, [*parts, f"{len(table):,}", example, f"{study.accuracy():.0%}", f"{size:,}"]))


def main(data: Annotated[Path | None, typer.Option(help="folder with cifar10n_train.parquet")] = None) -> None:
    """Print the table, a row as soon as it is known."""
    print(
        "| walk | data | lines | training s | walk s | rows of the CSV | its first row | accuracy | study.toml bytes |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in walks.WALKS:
        with tempfile.TemporaryDirectory() as folder:
            print(f"| {row(name, 'small', Path(folder))} |", flush=True)
    for name in ON_PICTURES if data is not None else ():
        with tempfile.TemporaryDirectory() as folder:
            assert data is not None
            export(data, Path(folder))
            print(f"| {row(name, f'{PICTURES:,} JPEGs', Path(folder), data=False)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
