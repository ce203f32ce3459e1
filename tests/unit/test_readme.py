"""What the README and the pages of results name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import influence_core as ic
from tests.estimator_settings import own_estimators

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(ROOT / "tests" / "benchmarks" / name for name in ("RESULTS.md", "PAPERS.md"))]


def test_the_table_of_methods_has_every_estimator_once() -> None:
    section = PAGES[0].read_text(encoding="utf-8").split("## Methods")[1].split("\n## ")[0]
    firsts = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = re.findall(r"`(\w+)`", " ".join(firsts))
    assert sorted(named) == sorted(cls.__name__ for cls in own_estimators())
    assert all(hasattr(ic.estimators, name) for name in named)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    heads = {re.sub(r"[^\w -]", "", h.lower()).strip().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)}
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    for link in links:
        target, _, anchor = link.partition("#")
        assert (page.parent / target).exists(), link
        assert not anchor or target or anchor in heads, link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_files_exist(page: Path) -> None:
    text = " ".join(page.read_text(encoding="utf-8").split())
    modules = re.findall(r"python -m (tests\.[\w.]+)", text)
    assert modules
    for module in modules:
        assert (ROOT / Path(*module.split("."))).with_suffix(".py").exists(), module
    for name in re.findall(r"`((?:tests|pages|influence_core)/[\w/.]+)`", text):
        assert (ROOT / name).exists() or name == "pages/name.py", name
