"""The weights at which sharpness-aware minimisation takes its gradients."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from influence_core.curvature import Ascent, unflatten
from influence_core.errors import InvalidInput
from influence_core.gradients import mean_gradient
from influence_core.losses import Loss
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


def climbed(model: nn.Module, loss: Loss, data: Any, rho: float, p: float = 2.0) -> tuple[nn.Module, Ascent]:
    """A model at the end of SAM's ascent on the mean loss of a dataset, and the ascent.

    Args:
        model: in eval mode; not changed.
        loss: one loss per sample.
        data: to climb on.
        rho: radius.
        p: of its norm.

    Returns:
        A copy of the model with moved weights and the same buffers, and the ascent.

    Raises:
        InvalidInput: if the gradient is not finite.
    """
    gradient = mean_gradient(model, loss, data)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    row = torch.cat([gradient[name].flatten() for name in parameters])
    if not math.isfinite(float(row.norm())):
        raise InvalidInput("the gradient of the mean loss is NaN or infinite: look at the model's weights and the data")
    ascent = Ascent(row, rho, p)
    moved = copy.deepcopy(model)
    step = unflatten(ascent.step()[None], {name: tuple(p.shape) for name, p in parameters.items()})
    with torch.no_grad():
        for name, parameter in moved.named_parameters():
            if name in step:
                parameter.add_(step[name][0])
    return moved, ascent
