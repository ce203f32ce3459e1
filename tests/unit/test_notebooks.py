"""The notebooks run from top to bottom, and what is stored in them is small and complete."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "assets" / "notebooks").glob("*.ipynb"))


def test_there_is_a_quickstart() -> None:
    assert [n.name for n in NOTEBOOKS] == ["quickstart.ipynb"]


@pytest.mark.filterwarnings("ignore:Proactor event loop")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_runs_and_shows_the_kinds_of_results_that_are_stored(path: Path, tmp_path: Path) -> None:
    stored = nbformat.read(path, 4)
    fresh = nbformat.read(path, 4)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(fresh, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    for before, after in zip(stored.cells, fresh.cells, strict=True):
        if before.cell_type == "code":
            kinds = [[sorted(o.get("data", {})) or o.output_type for o in c.outputs] for c in (before, after)]
            assert kinds[0] == kinds[1], before.source
            assert before.outputs or "=" in before.source or "import" in before.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_outputs_stay_small_and_need_no_extension(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    assert "widget-state" not in text
    assert "/site-packages/" not in text
    assert '"output_type": "error"' not in text
    assert json.loads(text)["nbformat"] == 4
