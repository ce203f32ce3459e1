"""The examination: every check in the order of causes, so that one fault is one finding."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from influence_core.diagnosis import copies, inputs, labels, layers, recipe, resources
from influence_core.diagnosis.finding import EXIT_CODES, Finding, Report
from influence_core.diagnosis.sample import MOST, parts_of
from influence_core.errors import InfluenceError
from influence_core.estimators import Estimator
from influence_core.estimators.calibration import calibrated
from influence_core.machine import machine_name
from influence_core.progress import track
from influence_core.study import Study


def doctor(
    study: Study | str | Path,
    *,
    sample: int | None = MOST,
    estimators: Sequence[Estimator] | None = None,
    calibrate: bool = True,
    again: bool = False,
    memory_mib: float | None = None,
    disk_mib: float | None = None,
    trust: bool = False,
) -> Report:
    """Look at a study before anything long runs: what does not fit, why it matters, and what mends it.

    It takes seconds: up to 512 samples of each split pass through the model, and up to 20,000 are compared in search of
    copies. Nothing of the study is changed or written; what a few batches cost is kept in the user's cache.

    Args:
        study: the study, or the path of one, which need not open: what is wrong with it is a finding then.
        sample: samples of each split that pass through the model; ``None`` for all, and to look through all pictures
            for copies.
        estimators: to predict the cost of; by default all, with default settings.
        calibrate: time a few batches for the prediction, unless they were timed on this machine before.
        again: time them in any case.
        memory_mib: memory that there is; by default what is free now.
        disk_mib: likewise, of disk.
        trust: whether a study's plugin, which is Python code, may run.

    Returns:
        The report: findings, what every estimator would cost, and what was measured.

    Example:
        >>> import influence_core as ic
        >>> report = ic.doctor(ic.demo.digits(), calibrate=False)
        >>> report.exit_code, report.has("labels-shifted")
        (0, False)
    """
    begun = time.perf_counter()
    named = study.name if isinstance(study, Study) else str(study)
    if not isinstance(study, Study):
        try:
            study = Study.load(study, trust=trust)
        except InfluenceError as error:
            return Report(named, (_refused(error),), seconds=time.perf_counter() - begun)
    try:
        found, facts, table = _examined(study, sample, estimators, calibrate, again, memory_mib, disk_mib)
    except InfluenceError as error:  # a picture that cannot be read, say, in the middle of the sample
        return Report(named, (_refused(error),), seconds=time.perf_counter() - begun)
    ordered = sorted(found, key=lambda finding: -EXIT_CODES[finding.severity])
    return Report(named, tuple(ordered), facts, table, machine_name(), time.perf_counter() - begun)


def _examined(
    study: Study,
    sample: int | None,
    chosen: Sequence[Estimator] | None,
    calibrate: bool,
    again: bool,
    memory_mib: float | None,
    disk_mib: float | None,
) -> tuple[list[Finding], dict[str, Any], pd.DataFrame]:
    steps = iter(track(range(7), "examining the study"))
    next(steps)
    most = max(len(study.train), len(study.test)) if sample is None else sample
    parts = parts_of(study, most)
    facts = inputs.facts_of(parts)
    found = list(inputs.check_finite(parts))
    next(steps)
    found += layers.check_statistics(study)
    if not found:
        found += layers.check_layers(study, parts["train"])
    cause = any(f.severity == "error" for f in found)
    next(steps)
    if not cause:
        found += labels.check_order(parts)
    shifted = any(f.code == "labels-shifted" for f in found)
    if not shifted:
        found += labels.check_balance(study)
    cause = cause or any(f.severity == "error" for f in found)
    next(steps)
    if not cause:
        scale = list(inputs.check_scale(study, parts))
        found += scale
        if not scale:
            found += recipe.check_recipe(study, parts["train"])
    next(steps)
    found += layers.check_rules(study)
    found += copies.check_copies(study, sample is None, facts)
    next(steps)
    broken = any(f.code.endswith("-not-finite") for f in found)
    calibration = calibrated(study, again) if calibrate and not broken else None
    next(steps)
    if calibration is not None and calibration.disturbed:
        facts["busy"] = True
    table = resources.costs(study, calibration, chosen)
    found += resources.check_resources(table, memory_mib, disk_mib)
    next(steps, None)
    return found, facts, table


def _refused(error: InfluenceError) -> Finding:
    """What a study cannot be opened for, whose message says what is wrong and how to mend it."""
    what, _, mend = str(error).partition(": ")
    whole = str(error)
    return Finding(
        "study-refused",
        "error",
        whole,
        "nothing can be computed before it is mended: every number would be silently wrong",
        mend if mend and len(what) < len(whole) else whole,
    )
