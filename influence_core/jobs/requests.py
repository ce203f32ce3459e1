"""A job's request, made again from what the table has."""

from __future__ import annotations

import importlib
import json

from influence_core.errors import InvalidInput
from influence_core.jobs.row import Row
from influence_core.models import run_plugin
from influence_core.store import Task, task_from_spec
from influence_core.study import Study


def request_of(row: Row, trust: bool) -> Task:
    """Open the study of a job and make its request.

    Args:
        row: the job.
        trust: whether the study's plugin may run: the one that ran where the job was asked for, and no other.

    Returns:
        The request.

    Raises:
        InvalidInput: if the estimator's module is not there, or the plugin may not run.
    """
    if row.plugin is not None:
        run_plugin(row.plugin, row.plugin_sha256, trust)
    study = Study.load(row.study)
    try:
        importlib.import_module(row.module)
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"the estimator of {row.title} is in the module {row.module!r}, which cannot be imported here ({error}): "
            "put its folder into PYTHONPATH"
        ) from error
    return task_from_spec(study, json.loads(row.spec))
