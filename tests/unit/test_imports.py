"""What ``import influence_core`` brings along: the heavy packages come where they are used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USED_LATE = (
    "torch",
    "pandas",
    "sklearn",
    "scipy",
    "skimage",
    "plotly",
    "torchvision",
    "streamlit",
    "pydantic",
    "tomli_w",
    "typer",
    "sqlite3",
)
SHOWN = "print(*(name for name in {names!r} if name in sys.modules))"


def loaded_after(line: str) -> set[str]:
    """Those of ``USED_LATE`` that a fresh process has loaded after a line of Python."""
    code = f"import sys\n{line}\n{SHOWN.format(names=USED_LATE)}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_import_loads_no_heavy_package() -> None:
    assert loaded_after("import influence_core") == set()


@pytest.mark.parametrize(
    ("line", "package"),
    [
        ("import influence_core as ic; ic.Study", "torch"),
        ("import influence_core as ic; ic.figures.roc", "plotly"),
        ("from influence_core import figures", "plotly"),
        ("from influence_core import *", "plotly"),
        ("import influence_core as ic; ic.jobs.submit", "sqlite3"),
        ("import influence_core as ic; ic.data.digits()", "sklearn"),
        ("import influence_core as ic; ic.demo.digits()", "pydantic"),
    ],
)
def test_what_is_used_late_is_there_when_it_is_used(line: str, package: str) -> None:
    assert package in loaded_after(line)


def test_scores_need_neither_figures_nor_jobs_nor_the_doctor() -> None:
    line = "import influence_core as ic; ic.estimators.Loss; ic.demo; ic.run"
    code = f"import sys\n{line}\nprint(*(name for name in sys.modules if name.startswith('influence_core.')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    unasked = {f"influence_core.{name}" for name in ("figures", "jobs", "diagnosis", "testing", "cli")}
    assert not unasked & set(done.stdout.split())
    assert "influence_core.estimators" in done.stdout.split()


def test_threads_that_use_it_at_once_for_the_first_time_all_find_it() -> None:
    code = """
import threading
import influence_core as ic
found, start = [], threading.Barrier(8)
def look(names):
    start.wait()
    found.append({name: getattr(ic, name) for name in names})
turns = [ic.__all__[n:] + ic.__all__[:n] for n in range(0, 32, 4)]
threads = [threading.Thread(target=look, args=(turn,)) for turn in turns]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(found) == 8 and all(one == found[0] for one in found), found
assert type(ic.doctor).__name__ == "function" and type(ic.store).__name__ == "module"
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_face_lists_what_is_imported_late_and_refuses_the_rest() -> None:
    import influence_core as ic

    assert set(ic.__all__) <= set(dir(ic))
    with pytest.raises(AttributeError, match=r"'influence_core' has no attribute 'curves'"):
        _ = ic.curves  # type: ignore[attr-defined]
