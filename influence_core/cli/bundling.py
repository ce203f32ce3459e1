"""The results that come with the bundled study, so that nobody waits for them."""

from __future__ import annotations

import shutil
from pathlib import Path

from influence_core.errors import InfluenceError
from influence_core.estimators import all_estimators, get
from influence_core.store import Request, Store, slimmed
from influence_core.study import Study

ALWAYS = ("mislabel_scores", "label_influence")
"""What is asked of every estimator that gives it, beside the influence on the mistakes."""


def requests(study: Study) -> list[Request]:
    """All that the app asks about the study's mistakes with default settings, where the study allows."""
    found = []
    for kind in all_estimators():
        if not kind.__module__.startswith("influence_core."):
            continue
        for what in kind.gives():
            if what not in ("influence", *ALWAYS) or get(kind.name).missing(study, what):
                continue
            found.append(Request.of(study, kind.name, what, study.misclassified() if what == "influence" else None))
    return found


def bundle(study: Study, folder: Path, work: Path) -> tuple[int, int]:
    """Compute all of them, and copy the answers alone.

    Args:
        study: the bundled one.
        folder: to fill; what is in it is replaced.
        work: store where they are computed, with the fits; what is there already is not computed again.

    Returns:
        Number of answers, and bytes.

    Raises:
        InfluenceError: naming what failed.
    """
    store = Store(work, budget=None)
    asked = requests(study)
    for request in asked:
        try:
            store.compute(request)
        except InfluenceError as error:
            error.add_note(f"(of {request.title})")
            raise
    shutil.rmtree(folder, ignore_errors=True)
    size = sum(slimmed(store, request, folder) for request in asked)
    return len(asked), size
