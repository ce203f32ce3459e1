"""How little damping a quadratic model of the training loss can be trusted with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from influence_core.curvature.conjugate import BASIS_MIB, conjugate_gradient
from influence_core.curvature.operators import Operator
from influence_core.curvature.shifted import ShiftedSystems
from influence_core.curvature.solution import Product
from influence_core.curvature.vectors import flatten, unflatten
from influence_core.gradients import Samples, mean_gradient, no_autocast, plain_attention
from influence_core.progress import tick

DAMPINGS = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
"""What is tried, as multiples of the mean diagonal of the curvature, until a step fails."""

TRUSTED = 2 / 3
"""Of the decrease that is predicted, what a step must reach."""

TOLERANCE = 1e-3
"""On the residual of a step."""

PRODUCTS = 200
"""For one damping, at most."""

NOTHING = 1e-7
"""A predicted decrease, relative to the loss, that rounding hides: the weights are at the minimum."""


@dataclass(frozen=True)
class Trusted:
    """The damping that was found.

    Attributes:
        damping: relative to the mean diagonal.
        ratios: of every damping that was tried, the real decrease of the loss over the predicted one.
    """

    damping: float
    ratios: dict[float, float]


def trusted_damping(
    matrix: Operator, unit: float, preconditioner: Callable[[float], Product | None] | None = None
) -> Trusted:
    r"""The least damping with which a step to the minimum of the training loss does what the quadratic model says.

    An influence function takes the loss for a quadratic one and the weights for its minimum. At the minimum of a convex
    loss nothing contradicts that, and the less damping the more exact it is. Where training ended elsewhere, which is
    how networks are trained, directions of little curvature are not what the quadratic model says, and damping has to
    keep out of them. As Levenberg and Marquardt do (1944, 1963; Nocedal and Wright 2006, section 4.1), the step
    :math:`p = -(H + (\lambda+\delta) I)^{-1} (\nabla L + \lambda w)` is therefore put to the test,

    .. math:: \frac{F(w + p) - F(w)}{p^\top(\nabla L + \lambda w) + \frac12 p^\top (H + \lambda I) p} \ge \tfrac23,

    with :math:`F = L + \frac\lambda2\lVert w\rVert^2`, from much damping to little, until it fails. Nothing is
    retrained, and no data but the training set are looked at.

    Args:
        matrix: H of the training loss, with its weight decay; its damping is not looked at.
        unit: the mean diagonal that the damping is relative to.
        preconditioner: an approximate inverse for each absolute damping, if there is one.

    Returns:
        The damping; the largest that is tried if none can be trusted.
    """
    model, decay = matrix.model, matrix.weight_decay
    weights = torch.cat([p.detach().flatten() for p in matrix.parameters])
    gradient = mean_gradient(model, matrix.loss, matrix.data, parameters=list(matrix.shapes))
    slope = flatten({name: g[None] for name, g in gradient.items()}, matrix.shapes) + decay * weights
    start, found = _objective(matrix, model, weights), DAMPINGS[0]
    ratios: dict[float, float] = {}
    steps = _steps(matrix, -slope, unit, preconditioner)
    for damping in DAMPINGS:
        tick()
        solved = steps(damping)
        if solved is None:
            break
        step, predicted = solved
        if -predicted <= NOTHING * abs(start):
            ratios[damping] = 1.0
        else:
            moved = copy.deepcopy(model)
            named = dict(moved.named_parameters())
            with torch.no_grad():
                for name, change in unflatten(step, matrix.shapes).items():
                    named[name].add_(change[0])
            ratios[damping] = (_objective(matrix, moved, weights + step[0]) - start) / predicted
        if not ratios[damping] >= TRUSTED:
            break
        found = damping
    return Trusted(found, ratios)


def _steps(
    matrix: Operator, b: Tensor, unit: float, preconditioner: Callable[[float], Product | None] | None
) -> Callable[[float], tuple[Tensor, float] | None]:
    """For each damping the step ``[1, P]`` and what the quadratic model says of it; ``None`` along negative curvature.

    Without a preconditioner all dampings share one Krylov space, where there is room for it.

    Args:
        matrix: H with its weight decay.
        b: minus the slope, ``[1, P]``.
        unit: what dampings are relative to.
        preconditioner: see ``trusted_damping``.

    Returns:
        A function of a damping.
    """
    bare = matrix.damped(0.0)
    room = int(BASIS_MIB * 2**20) // (b.shape[1] * b.element_size())
    if preconditioner is None and room >= PRODUCTS and bool(b.any()):
        systems = ShiftedSystems(bare, b, PRODUCTS)

        def shared(damping: float) -> tuple[Tensor, float] | None:
            one = systems.solve(damping * unit, TOLERANCE)
            return None if one.negative else (one.x[None], 0.5 * one.quadratic - one.linear)

        return shared

    def alone(damping: float) -> tuple[Tensor, float] | None:
        solved = conjugate_gradient(
            matrix.damped(damping * unit),
            b,
            tolerance=TOLERANCE,
            max_iterations=PRODUCTS,
            preconditioner=preconditioner(damping * unit) if preconditioner is not None else None,
        )
        if bool(solved.negative_curvature.any()):
            return None
        step = solved.x
        quadratic = (step * bare(step)).sum(dtype=torch.float64)
        return step, float(0.5 * quadratic - (step * b).sum(dtype=torch.float64))

    return alone


def _objective(matrix: Operator, model: nn.Module, weights: Tensor) -> float:
    """Mean loss and penalty."""
    first = next(model.parameters())
    samples, total = Samples(matrix.data, None, first.device, first.dtype), 0.0
    with plain_attention(), no_autocast(), torch.no_grad():
        for ids in torch.arange(len(samples)).split(256):
            inputs, labels = samples.batch(ids)
            total += float(matrix.loss(model(inputs), labels).sum(dtype=torch.float64))
    return total / len(samples) + 0.5 * matrix.weight_decay * float(weights.double().square().sum())
