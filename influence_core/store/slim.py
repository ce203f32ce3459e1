"""Answers to give away: the numbers and the facts about them, without tables and fitted estimators."""

from __future__ import annotations

import shutil
from pathlib import Path

from influence_core.store.catalogue import ABOUT
from influence_core.store.place import files_below, folder_at
from influence_core.store.result import CHANGE, RESULT, VALUES
from influence_core.store.sealed import read_sealed, write_sealed
from influence_core.store.store import Store
from influence_core.store.task import Task


def slimmed(store: Store, task: Task, folder: Path) -> int:
    """Copy a finished answer into a store that is given away.

    Args:
        store: that has it.
        task: that it answers.
        folder: of the other store.

    Returns:
        Bytes that were written.
    """
    store.compute(task)  # there, and whole
    source = store.folder(task)
    assert source is not None
    target = folder_at(folder / source.relative_to(store.path))
    facts = read_sealed(source / RESULT)
    facts["files"] = {name: digest for name, digest in facts["files"].items() if name in (VALUES, CHANGE)}
    for name in facts["files"]:
        shutil.copyfile(source / name, target / name)
    shutil.copyfile(source.parent / ABOUT, target.parent / ABOUT)
    write_sealed(target / RESULT, facts)
    return sum(path.stat().st_size for path in files_below(target.parent))
