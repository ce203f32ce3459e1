"""The walks in ``assets/notebooks``: from files to a first explanation and a table of labels to review.

What a cell is for stands in its tags: "data" makes what a user has already, "training" trains, "walk" is the walk.
"""

from __future__ import annotations

import ast
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

NOTEBOOKS = Path(__file__).parents[1] / "assets" / "notebooks"
WALKS = ("image_folder", "parquet_and_plugin", "table_and_weights", "torchvision_dataset")
MOST_LINES = 10


class Cell(NamedTuple):
    """A cell of code: what it is for, and its text."""

    kind: str
    source: str


def cells(name: str) -> list[Cell]:
    """The cells of code that say what they are for."""
    found = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells
    return [Cell(cell.metadata.tags[0], cell.source) for cell in found if cell.cell_type == "code"]


def lines(name: str) -> list[str]:
    """The lines of a walk, without empty ones."""
    whole = "\n".join(cell.source for cell in cells(name) if cell.kind == "walk")
    return [line for line in whole.splitlines() if line.strip()]


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Files and modules are looked for in ``folder``."""
    with contextlib.chdir(folder):
        sys.path.insert(0, os.fspath(folder))
        try:
            yield
        finally:
            sys.path.remove(os.fspath(folder))


def run(name: str, folder: Path, data: bool = True, changes: dict[str, str] | None = None) -> dict[str, float]:
    """Run a walk in this process.

    Args:
        name: of the notebook.
        folder: where its files are written.
        data: whether to make its own data; else ``folder`` has some.
        changes: text in its cells -> other text.

    Returns:
        Seconds of each kind of cell.
    """
    seconds: dict[str, float] = {}
    names: dict[str, Any] = {}
    with inside(folder):
        for kind, source in cells(name):
            if kind == "data" and not data:
                continue
            for old, new in (changes or {}).items():
                source = source.replace(old, new)
            begun = time.perf_counter()
            if source.startswith("%%writefile "):
                first, _, text = source.partition("\n")
                Path(first.split()[1]).write_text(text + "\n", encoding="utf-8")
            else:
                exec(compile(ast.parse(source), name, "exec"), names)
            seconds[kind] = seconds.get(kind, 0.0) + time.perf_counter() - begun
    return seconds
