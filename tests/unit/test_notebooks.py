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

LOOPS = ("compare_methods", "find_and_mend_labels", "remove_and_edit")
"""Those that go from a mistake to a gain that a training again has measured, which their last cell shows."""

GAIN = re.compile(r"([+-]\d+\.\d) points \(95 %: ([+-]\d+\.\d) to ([+-]\d+\.\d)\)")


def test_there_are_a_quickstart_four_walks_and_three_loops() -> None:
    assert [n.stem for n in NOTEBOOKS] == sorted(["quickstart", *walks.WALKS, *LOOPS])


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
    if path.stem in LOOPS:
        for notebook in (stored, fresh):
            check_gains(path.stem, shown(notebook, -1))
    if path.stem == "find_and_mend_labels":
        check_controls(shown(fresh, -3))


def shown(notebook: nbformat.NotebookNode, cell: int) -> str:
    """What the last output of a cell of code says, by its place among these."""
    output = [c for c in notebook.cells if c.cell_type == "code"][cell].outputs[-1]
    return str(output["text"] if output.output_type == "stream" else output.data["text/html"])


def check_gains(name: str, text: str) -> None:
    """The interval of the measured gain lies above 0; the best of two methods gains more."""
    (gain, low, high), *others = [tuple(map(float, numbers)) for numbers in GAIN.findall(text)]
    assert 0 < low <= gain <= high < 40
    assert len(others) == (name == "compare_methods")
    assert all(other[0] < gain for other in others)


def check_controls(text: str) -> None:
    """Mending the labels that were found beats changing, and checking, as many at random; clean labels are better."""
    random, checked, _, clean = [float(gain) for gain in re.findall(r"mending less that is ([+-]\d+\.\d) points", text)]
    assert random > checked > 0 > clean


def test_a_gain_that_is_none_is_seen() -> None:
    check_gains("remove_and_edit", "+8.9 points (95 %: +5.8 to +12.3)")
    two = "{} points (95 %: +1.0 to +9.0) {} points (95 %: -3.0 to +6.0)"
    check_gains("compare_methods", two.format("+4.0", "+2.0"))
    for name, text in (
        ("remove_and_edit", "+1.0 points (95 %: -2.5 to +4.6)"),
        ("remove_and_edit", two.format("+4.0", "+2.0")),
        ("compare_methods", two.format("+4.0", "+5.0")),
        ("compare_methods", "+8.9 points (95 %: +5.8 to +12.3)"),
    ):
        with pytest.raises(AssertionError):
            check_gains(name, text)
    with pytest.raises(ValueError, match="not enough values"):
        check_gains("remove_and_edit", "nothing was measured")


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
