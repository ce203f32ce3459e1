"""The notebooks run from top to bottom, and what is stored in them is small and complete."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import influence_core as ic
from tests import walks

NOTEBOOKS = sorted(walks.NOTEBOOKS.glob("*.ipynb"))
EXAMPLES = {
    "image_folder": r"[0-9]/[0-9]{3}\.png",
    "parquet_and_plugin": r"digits\.parquet#[0-9]+",
    "table_and_weights": r"scans/[0-9]{3}\.png",
    "torchvision_dataset": "",
}
"""What a row of the table says of where its sample lies; pictures of MNIST have no file each."""


def test_there_are_a_quickstart_and_four_walks() -> None:
    assert [n.stem for n in NOTEBOOKS] == sorted(["quickstart", *walks.WALKS])


@pytest.mark.parametrize("name", walks.WALKS)
def test_a_walk_takes_ten_lines_at_most(name: str) -> None:
    lines = walks.lines(name)
    assert 5 < len(lines) <= walks.MOST_LINES
    assert max(map(len, lines)) <= 120
    assert sum(line.count(";") for line in lines) == 0


@pytest.mark.filterwarnings("ignore:Proactor event loop")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_runs_and_shows_the_kinds_of_results_that_are_stored(path: Path, tmp_path: Path) -> None:
    stored = nbformat.read(path, 4)
    fresh = nbformat.read(path, 4)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(
        fresh, timeout=1500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    for before, after in zip(stored.cells, fresh.cells, strict=True):
        if before.cell_type == "code":
            kinds = [[sorted(o.get("data", {})) or o.output_type for o in c.outputs] for c in (before, after)]
            assert kinds[0] == kinds[1], before.source
            assert before.outputs or "=" in before.source or "import" in before.source
    if path.stem in walks.WALKS:
        check_walk(path.stem, tmp_path)


def check_walk(name: str, folder: Path) -> None:
    """The table that a walk has written is about the study that it has saved, and goes back into the data."""
    with walks.inside(folder):
        study = ic.Study.load("my_study", trust=True)
        table = ic.applications.read_relabels("relabel.csv")
    assert sorted(table["index"]) == list(range(len(study.train)))
    assert all(re.fullmatch(EXAMPLES[name], cell) for cell in table["filepath"])
    assert table["sha256"].tolist() == [study.train.sample_sha256(i) for i in table["index"]]
    assert 0 < table["is_label_issue"].sum() < len(table) / 2
    fixed = ic.applications.apply_relabels(study.train, table, accept="flagged")
    assert 0 < int((fixed.labels != study.train.labels).sum()) <= table["is_label_issue"].sum()
    pictures = {".png", ".jpg"} & {file.suffix for file in (folder / "my_study").rglob("*")}
    assert not pictures, "a study refers to its pictures"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_outputs_stay_small_and_need_no_extension(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    assert "widget-state" not in text
    assert "/site-packages/" not in text
    assert '"output_type": "error"' not in text
    assert json.loads(text)["nbformat"] == 4
