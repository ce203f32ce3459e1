"""A model at the end of the ascent of sharpness-aware minimisation."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from influence_core.curvature.ascent import Ascent
from influence_core.curvature.vectors import unflatten
from influence_core.errors import InvalidInput
from influence_core.gradients import Data, mean_gradient
from influence_core.losses import Loss


def climbed(model: nn.Module, loss: Loss, data: Data, rho: float, p: float = 2.0) -> tuple[nn.Module, Ascent]:
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
