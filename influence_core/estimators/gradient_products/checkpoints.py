"""Which checkpoints are summed over, and with what weights."""

from __future__ import annotations

from influence_core.errors import InvalidInput
from influence_core.study import Study
from influence_core.training import Checkpoint


def check_last(last: int | None) -> None:
    """Refuse a number of checkpoints below 1.

    Args:
        last: number of checkpoints, or ``None`` for all.

    Raises:
        InvalidInput: if it is below 1.
    """
    if last is not None and last < 1:
        raise InvalidInput(f"last is {last}; at least one checkpoint is needed")


def weighted_checkpoints(study: Study, weights: str, last: int | None) -> tuple[list[Checkpoint], list[float]]:
    """The checkpoints that are summed over, and their weights.

    Args:
        study: with a trajectory.
        weights: "learning_rate" for the rate at each checkpoint, "equal" for one over their number.
        last: how many of the last checkpoints; all if ``None``.

    Returns:
        Checkpoints in the order of training, and as many weights.

    Raises:
        InvalidInput: if all learning rates are zero.
    """
    checkpoints = used(study, last)
    rates = [c.learning_rate for c in checkpoints]
    if weights == "learning_rate" and not any(rate > 0 for rate in rates):
        raise InvalidInput("no checkpoint has a learning rate above 0: record them, or use weights='equal'")
    return checkpoints, rates if weights == "learning_rate" else [1.0 / len(checkpoints)] * len(checkpoints)


def used(study: Study, last: int | None) -> list[Checkpoint]:
    """The last checkpoints of a study, all if ``last`` is ``None``; none without a trajectory."""
    return list(study.trajectory or ())[-(last or 0) :]
