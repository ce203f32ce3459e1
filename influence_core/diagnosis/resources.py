"""What every estimator would cost on this machine, and whether there is so much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from influence_core.diagnosis.finding import Finding
from influence_core.errors import InfluenceError
from influence_core.estimators import Estimator, all_estimators
from influence_core.estimators.calibration import Calibration, predicted
from influence_core.machine import cache_folder, free_disk_mib, free_memory_mib
from influence_core.study import Study

ASKED = ("influence", "mislabel_scores", "label_influence", "parameter_change")
"""What an estimator is asked for in the table: the first of these that it gives."""

TESTS = 10
"""Test images that it is asked about."""

COLUMNS = ["name", "what", "runs", "lacks", "seconds", "memory_mib", "disk_mib"]
_SHOWN = 6


def costs(study: Study, calibration: Calibration | None, chosen: Sequence[Estimator] | None = None) -> pd.DataFrame:
    """One row for each estimator with its default settings; see ``Report.estimators``.

    Args:
        study: only read.
        calibration: of it.
        chosen: estimators to look at; by default all of the package with default settings.

    Returns:
        The table.
    """
    rows = []
    for estimator in chosen if chosen is not None else [cls() for cls in all_estimators()]:
        what = next(one for one in ASKED if one in estimator.gives())
        lacks = estimator.missing(study, what)
        found: tuple[float | None, float | None, float | None] = (None, None, None)
        if not lacks:
            try:
                guess = predicted(study, estimator, what, min(TESTS, len(study.test)), calibration)
                found = guess.seconds, guess.memory_mib, guess.disk_mib
            except InfluenceError as error:
                lacks = [str(error)]
        rows.append([estimator.name, what, not lacks, ", ".join(lacks), *found])
    return pd.DataFrame(rows, columns=COLUMNS)


def check_resources(
    table: pd.DataFrame, memory_mib: float | None = None, disk_mib: float | None = None, folder: Path | None = None
) -> Iterator[Finding]:
    """Estimators that need more memory or disk than there is.

    Args:
        table: of ``costs``.
        memory_mib: that there is; by default what is free now.
        disk_mib: likewise.
        folder: where results would be written; by default the user's cache.

    Yields:
        One finding of each kind at most.
    """
    memory = free_memory_mib() if memory_mib is None else memory_mib
    disk = free_disk_mib(folder or cache_folder()) if disk_mib is None else disk_mib
    kinds = (
        (
            "memory_mib",
            memory,
            "memory",
            "another estimator of the table, fewer test images at a time, a larger machine",
        ),
        ("disk_mib", disk, "disk", "make room, or save to another disk"),
    )
    for column, there, what, mend in kinds:
        if there is None:
            continue
        short = table[table[column].astype(float) > there].sort_values(column, ascending=False)
        if len(short):
            names = [f"{row[0]} {row[1]:,.0f} MiB" for row in short[["name", column]].itertuples(index=False)]
            shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
            yield Finding(
                f"{what}-too-little",
                "warning",
                f"{there:,.0f} MiB of {what} are free, and {len(short)} of {len(table)} estimators need more: {shown}",
                f"work that runs out of {what} is killed after the time it took until then",
                mend,
            )
