"""Which radius SAM's ascent had."""

from __future__ import annotations

from influence_core.errors import InvalidInput
from influence_core.study import Study
from influence_core.training import Recipe

RHO = 0.05
"""Radius of the ascent where nothing says what it was; the papers' usual one."""


def radius(study: Study, rho: float | None) -> tuple[float, str]:
    """The radius of the ascent, and where it is from.

    Args:
        study: with or without a trajectory.
        rho: what was asked for, or ``None``.

    Returns:
        The radius, and "given", "trajectory" or "default".

    Raises:
        InvalidInput: if the trajectory's radius belongs to another ascent than SAM's.
    """
    if rho is not None:
        return rho, "given"
    if study.trajectory is not None:
        check_ascent(study.trajectory.recipe)
        return float(study.trajectory[-1].rho), "trajectory"
    return RHO, "default"


def check_ascent(recipe: Recipe) -> None:
    """Refuse to take the radius of ASAM, in multiples of the weights, or of F-SAM, along another direction, for SAM's.

    Args:
        recipe: of a trajectory.

    Raises:
        InvalidInput: if it is of one of these.
    """
    if recipe.optimizer in ("asam", "fsam"):
        raise InvalidInput(
            f"the study was trained with {recipe.optimizer!r}, whose ascent of radius {recipe.rho:g} is not SAM's: "
            "give rho, the radius of SAM's that comes nearest to it, or 0 for none"
        )
