"""From the JSON of a task to the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from influence_core.store.request import Request
from influence_core.store.retrainings import Retrainings
from influence_core.store.task import Task
from influence_core.store.training import Training
from influence_core.store.trainings import Trainings
from influence_core.study import Study


def task_from_spec(study: Study, spec: Mapping[str, Any]) -> Task:
    """Make a task again that another process described.

    Args:
        study: the same one.
        spec: from ``Task.spec``.

    Returns:
        The task, with the same key.

    Raises:
        StaleResult: if the study or the code is another one by now.
        InvalidInput: if this is no spec.
    """
    made: dict[str, Callable[[Study, Mapping[str, Any]], Task]] = {
        "retraining": Retrainings.from_spec,
        "training": Training.from_spec,
        "trainings": Trainings.from_spec,
    }
    return made.get(str(spec.get("what")), Request.from_spec)(study, spec)
