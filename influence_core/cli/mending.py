"""``apply`` and ``retrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from influence_core.applications import mend_files, read_mended
from influence_core.applications import retrain as train_again
from influence_core.cli.console import say
from influence_core.errors import InvalidInput
from influence_core.study import Study

Answer = tuple[dict[str, Any], str]


def applied(study: Study, reviewed: Path, out: Path | None, in_place: bool, accept: str) -> Answer:
    """Decisions put into files.

    Args:
        study: whose training set they are about.
        reviewed: the CSV.
        out: where to.
        in_place: instead of the original.
        accept: "reviewed" or "flagged".

    Returns:
        Facts, and what to print.

    Raises:
        InvalidInput: if it is not said where to write, or ``accept`` is neither.
    """
    if accept not in ("reviewed", "flagged"):
        raise InvalidInput(f"--accept {accept!r}: choose reviewed or flagged")
    if (out is None) != in_place:
        raise InvalidInput("say where to write: --out COPY, or --in-place to replace the original; not both")
    done = mend_files(study.train, reviewed, out, in_place=in_place, accept=accept)  # type: ignore[arg-type]
    if not done.relabelled and not done.excluded:
        say(
            "note: no label changes: no row says relabel or exclude in the column decision; --accept flagged takes "
            "every flagged suggestion"
        )
    kept = "" if done.backup is None else f"; the original is {done.backup}"
    facts = {"path": str(done.path), "relabelled": done.relabelled, "excluded": done.excluded}
    facts |= {} if done.backup is None else {"backup": str(done.backup)}
    return facts, f"{done.path}: {done.relabelled:,} pictures relabelled, {done.excluded:,} left out{kept}"


def retrained(study: Study, mended: Path, out: Path | None, seeds: int) -> Answer:
    """Training on mended labels.

    Args:
        study: whose recipe and test set are used.
        mended: a reviewed CSV, or files.
        out: folder of the new study, or ``None``.
        seeds: how many trainings.

    Returns:
        Facts, and what to print.

    Raises:
        InvalidInput: if there is no such path, or no training.
    """
    if not mended.exists():
        raise InvalidInput(f"there is no {mended}: give what `influence apply` wrote, or the reviewed CSV")
    if seeds < 1:
        raise InvalidInput(f"--seeds {seeds}: at least one training is needed")
    if study.trajectory is None:
        say("note: the study has no recipe, so both trainings take the defaults: SGD, 30 epochs, learning rate 0.1")
    found = train_again(study, read_mended(study.train, mended), range(seeds))
    facts, text = found.to_dict(), str(found)
    if out is not None:
        file = found.study.save(out)
        facts, text = facts | {"study": str(file)}, f"{text}\n{file}: {found.study}"
    return facts, text
