"""What ``import influence_core`` brings along: the heavy packages come where they are used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USED_LATE = (
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


def test_the_face_lists_what_is_imported_late_and_refuses_the_rest() -> None:
    import influence_core as ic

    assert set(ic.__all__) <= set(dir(ic))
    with pytest.raises(AttributeError, match=r"'influence_core' has no attribute 'curves'"):
        _ = ic.curves  # type: ignore[attr-defined]
