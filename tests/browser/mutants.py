"""Every journey in the browser fails once its feature is broken: ``python -m tests.browser.mutants``.

Each mutant is a copy of the project with one text exchanged, on which the tests that guard the feature are run; the
untouched copy passes them first. ``--only 3`` runs one of them. It takes about a minute for each.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis", ".influence")


@dataclass(frozen=True)
class Mutant:
    """A broken feature.

    Attributes:
        what: is broken.
        file: of the project.
        right: text that stands in it once.
        wrong: takes its place.
        test: what has to fail, as pytest's ``-k`` takes it.
    """

    what: str
    file: str
    right: str
    wrong: str
    test: str


JOURNEYS = "test_journeys.py"
MUTANTS = (
    Mutant(
        "four side by side: harmful and helpful are exchanged",
        "pages/parts/panels.py",
        '"harmful": scores.harmful(test_id, k), "helpful": scores.helpful(test_id, k)',
        '"harmful": scores.helpful(test_id, k), "helpful": scores.harmful(test_id, k)',
        "four_estimators_side_by_side",
    ),
    Mutant(
        "a tile common to three has no badge",
        "pages/parts/panels.py",
        "together.count(index, side)) > 1:",
        "together.count(index, side)) > 4:",
        "four_estimators_side_by_side",
    ),
    Mutant(
        "a tile common to three is not linked under the pointer",
        "pages/parts/gallery.js",
        'item.card.classList.toggle("lit", lit.has(item.link));',
        'item.card.classList.toggle("lit", false);',
        "four_estimators_side_by_side",
    ),
    Mutant(
        "a click on the matrix takes prediction for label",
        "pages/explain.py",
        'f"{cell[0]},{cell[1]}")\n\n\n@st.cache_resource',
        'f"{cell[1]},{cell[0]}")\n\n\n@st.cache_resource',
        "square_of_the_matrix",
    ),
    Mutant(
        "a click on a curve or a bar flags more than lies there",
        "pages/mislabels.py",
        'to(int(points[0]["customdata"][0]),',
        'to(int(points[0]["customdata"][0]) + 9,',
        "click_on_a_curve or click_on_a_bar",
    ),
    Mutant(
        "a typed threshold flags one more",
        "pages/mislabels.py",
        "to(len(whole.cut(typed).flagged) if",
        "to(len(whole.cut(typed).flagged) + 1 if",
        "typed_threshold_reaches",
    ),
    Mutant(
        "Relabel forgets the cut",
        "pages/relabel.py",
        "cut = panels.cut(choice, question.answer)",
        "cut = question.answer",
        "typed_threshold_reaches",
    ),
    Mutant(
        "the cut is not read from the address",
        "pages/parts/selection.py",
        'flag=_number(params, "flag", 1, most_flagged or len(study.train) - 1, "number of images to flag", notes),',
        "flag=None,",
        "back_undoes_the_last_choice",
    ),
    Mutant(
        "a class is not read from the address",
        "pages/parts/selection.py",
        'label = study.class_names.index(params["class"])',
        "label = None",
        "back_undoes_the_class",
    ),
    Mutant(
        "the panel counts ranks from 0",
        "pages/parts/panels.py",
        "int((values[:index] == values[index]).sum()) + 1",
        "int((values[:index] == values[index]).sum())",
        "panel_of_a_tile",
    ),
    Mutant(
        "a link to a picture opens nothing",
        "pages/main.py",
        "if picked.image is not None:",
        "if picked.image is None and False:",
        "link_to_a_picture",
    ),
    Mutant(
        "?test=99999 is passed over in silence",
        "pages/parts/selection.py",
        'notes.append(f"There is no {what} “{_short(text)}”: it is a number from {low} to {high:,}.")',
        "pass",
        "test_image_that_is_none",
    ),
    Mutant(
        "an empty class is not told",
        "pages/explain.py",
        'st.info(f"No {where}.',
        'str(f"No {where}.',
        "test_image_that_is_none",
    ),
    Mutant(
        "a right prediction is explained as a mistake",
        "pages/parts/panels.py",
        'return "pulled away from the right answer", "made the answer right"',
        'return "pushed the model to its mistake", "pulled the right way"',
        "test_image_that_is_none",
    ),
    Mutant(
        "names are Markdown",
        "pages/parts/errors.py",
        'words = words.replace(sign, f"\\\\{sign}")',
        "words = words.replace(sign, sign)",
        "names_cannot_become_markup",
    ),
    Mutant(
        "the right arrow goes nowhere",
        "pages/parts/gallery.js",
        "ArrowRight: i + 1,",
        "ArrowRight: i,",
        "arrows_enter_and_escape or keys_move",
    ),
    Mutant(
        "Download CSV is out of reach",
        "pages/relabel.py",
        "disabled=not len(rows),",
        "disabled=True,",
        "without_a_mouse",
    ),
    Mutant(
        "answers of two estimators share a place",
        "pages/parts/results.py",
        "return (study.fingerprint, name, what, ids)",
        "return (study.fingerprint, what, ids)",
        "two_tabs",
    ),
    Mutant(
        "another study is drawn over the former",
        "pages/main.py",
        "body = st.empty()",
        "body = st.container()",
        "another_study",
    ),
    Mutant(
        "what is slow starts by itself",
        "pages/parts/results.py",
        "if expected.seconds is None or expected.seconds > limit:",
        "if expected.seconds is not None and expected.seconds > 1e9:",
        "what_is_slow",
    ),
)


def passes(folder: Path, test: str, told: bool = False) -> bool:
    """Whether the tests pass on a copy of the project.

    Args:
        folder: of the copy.
        test: as ``-k`` takes it.
        told: whether the end of what a failure says is printed.

    Returns:
        Whether all of them do.

    Raises:
        RuntimeError: if none was run.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/browser", "-k", test]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"-k {test!r} ran no test:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    if done.returncode and told:
        typer.echo(done.stdout[-2000:], err=True)
    return done.returncode == 0


def main(only: Annotated[list[int] | None, typer.Option(help="Numbers of mutants; all.")] = None) -> None:
    """Run them all, and end with the number of those that nothing noticed."""
    missed = 0
    passed: dict[str, bool] = {}
    for number, mutant in enumerate(MUTANTS):
        if only and number not in only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "project"
            shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
            if mutant.test not in passed:
                passed[mutant.test] = passes(copy, mutant.test, told=True)
            file = copy / mutant.file
            text = file.read_text(encoding="utf-8")
            if text.count(mutant.right) != 1:
                raise SystemExit(f"{mutant.file} has {text.count(mutant.right)} times: {mutant.right}")
            file.write_text(text.replace(mutant.right, mutant.wrong), encoding="utf-8")
            found = not passes(copy, mutant.test)
        untouched = "passes" if passed[mutant.test] else "FAILS"
        missed += not (found and passed[mutant.test])
        said = "noticed" if found else "NOT NOTICED"
        typer.echo(f"{number:2} {mutant.what}: {said} by {mutant.test} (untouched: {untouched})")
    if missed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
