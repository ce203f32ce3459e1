"""Opening a study of 50,000 JPEGs: ``python -m tests.benchmarks.open_study --data FOLDER [--export FOLDER]``.

The folder holds ``cifar10n_train.parquet`` (columns ``image``, ``label`` and ``worse_label`` of CIFAR-10N) and
``cifar10_test.parquet``. A study of all of them with a small untrained network is made, saved and opened, each in a
process of its own, and seconds and the peak of memory are printed. ``--export`` writes 2,000 of the pictures into a
folder for each class, and a CSV of their paths; ``tests.benchmarks.walks`` uses them.
"""

from __future__ import annotations

import csv
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
import torch
import typer

import influence_core as ic

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
PICTURES = 2000
"""How many ``export`` writes."""


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print seconds, and the peak of memory of the process so far."""
    begun, worked = time.perf_counter(), time.process_time()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{what:<42} {time.perf_counter() - begun:7.2f} s ({time.process_time() - worked:6.2f} s of the processor), "
        f"peak {peak:6.0f} MiB",
        flush=True,
    )


def make(data: Path, folder: Path) -> None:
    """Make the study and save it."""
    with timed("imports"):
        torch.manual_seed(0)
    model = ic.models.build("cifar_resnet", depth=10, width=8)
    with timed("read both tables"):
        train = ic.data.parquet_images(
            data / "cifar10n_train.parquet",
            label="worse_label",
            true_label="label",
            class_names=CLASSES,
            mean=MEAN,
            std=STD,
            name="train",
        )
        test = ic.data.parquet_images(
            data / "cifar10_test.parquet", class_names=CLASSES, mean=MEAN, std=STD, name="test"
        )
    with timed("make the study"):
        study = ic.Study(model, train, test, name="CIFAR-10N, all")
    with timed("save it"):
        study.save(folder)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    weights = sum(size for name, size in sizes.items() if name.startswith("model-"))
    print(f"on disk beside the weights: {sum(sizes.values()) - weights:,} bytes; weights {weights:,} bytes", flush=True)


def open_it(folder: Path) -> None:
    """Open the study twice and read it."""
    with timed("imports"):
        _ = ic.Study
    with timed("open"):
        study = ic.Study.load(folder)
    with timed("open again"):
        study = ic.Study.load(folder)
    with timed("fingerprint"):
        _ = study.fingerprint
    with timed("first 256 inputs"):
        study.train.batch(range(256))
    with timed("the same again"):
        study.train.batch(range(256))
    for turn in ("decode all", "decode all again"):
        with timed(f"{turn} ({len(study.train):,})"):
            for start in range(0, len(study.train), 512):
                study.train.batch(range(start, min(start + 512, len(study.train))))
    with timed("check_finite of train and test"):
        study.check_finite()
    with timed("SHA-256 of all training pictures"):
        for index in range(len(study.train)):
            study.train.sample_sha256(index)


def export(data: Path, folder: Path, seed: int = 0) -> None:
    """Write some of the training pictures as files.

    Args:
        data: with ``cifar10n_train.parquet``.
        folder: gets ``pictures/CLASS/ROW.jpg`` by the label of CIFAR-10N, and ``table.csv`` with the columns ``file``,
            ``label`` (the same), ``true_label`` and ``split``.
        seed: of the choice.
    """
    rows = torch.randperm(50_000, generator=torch.Generator().manual_seed(seed))[:PICTURES].sort().values.tolist()
    table = pq.read_table(data / "cifar10n_train.parquet").take(rows).to_pylist()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "true_label", "split"])
        for number, (row, cells) in enumerate(zip(rows, table, strict=True)):
            name = f"pictures/{CLASSES[cells['worse_label']]}/{row:05d}.jpg"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(cells["image"])
            part = "test" if number % 5 == 4 else "train"
            writer.writerow([name, CLASSES[cells["worse_label"]], CLASSES[cells["label"]], part])
    print(f"{PICTURES:,} pictures in {folder / 'pictures'}, and {folder / 'table.csv'}")


def main(
    data: Annotated[Path, typer.Option(help="folder with the Parquet files")],
    export_to: Annotated[Path | None, typer.Option("--export", help="write 2,000 pictures there instead")] = None,
    step: Annotated[str, typer.Option(help="for the program itself: one process a step")] = "",
    folder: Annotated[Path | None, typer.Option(help="where to save the study")] = None,
) -> None:
    """Make, save and open a study of 50,000 JPEGs, or write some of them as files."""
    if export_to is not None:
        export(data, export_to)
    elif step and folder is not None:
        make(data, folder) if step == "make" else open_it(folder)
    else:
        with tempfile.TemporaryDirectory() as place:
            for step in ("make", "open"):
                print(f"--- {step}", flush=True)
                where = str(folder or Path(place) / "study")
                command = [sys.executable, "-m", "tests.benchmarks.open_study", "--data", str(data)]
                subprocess.run([*command, "--step", step, "--folder", where], check=True)


if __name__ == "__main__":
    typer.run(main)
