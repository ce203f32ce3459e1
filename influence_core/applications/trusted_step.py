"""How far along an edit the weights may go before the training loss is another one than the edit takes it for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from influence_core.data.samples import SampleSet
from influence_core.errors import InvalidInput
from influence_core.estimators import Estimator
from influence_core.estimators.changes import DataChange
from influence_core.estimators.work import Work
from influence_core.models import dataset_losses, model_outputs
from influence_core.study import Study

STEPS = tuple(2.0**-n for n in range(15))
"""What is tried, as shares of the edit, the longest first."""

SAMPLE = 256
"""Training images on which the curvature along the edit is measured."""

TERMS = 1000
"""Changed losses that are looked at, at most."""


def trusted_step(study: Study, change: Mapping[str, Tensor], data: DataChange) -> float:
    r"""The share of an edit that lowers the changed training loss most, by what that loss really does.

    An influence function takes the training loss for a quadratic one: an edit :math:`\Delta` of the weights is its step
    to the minimum of :math:`L + \frac1N\sum_t f_t \ell_t`, with the terms of ``estimators.changes``. How far that holds
    is measured as one measures a Newton step (Nocedal and Wright 2006, chapter 3), along the line itself:

    .. math:: F(s) = \tfrac12\bigl(L(w + s\Delta) + L(w - s\Delta)\bigr) - L(w)
        + \frac1N\sum_t f_t \bigl(\ell_t(w + s\Delta) - \ell_t(w)\bigr).

    The first part is what the loss curves upward; both sides together leave out the slope that it has where training
    ended before the minimum, as training would have followed that without the change as well. Where the model is right,
    F is least at s = 1. Test images are not looked at.

    Args:
        study: that is edited.
        change: of the weights, name -> tensor, for the whole of ``data``.
        data: of the training set.

    Returns:
        The best of 1, 1/2, 1/4 ... 1/16384; 1 where the change is too small for its effect to be seen, and 0 where none
        of them lowers F.
    """
    chosen = torch.randperm(data.size, generator=torch.Generator().manual_seed(0))[:SAMPLE].sort().values
    ids, labels, factors = data.terms()
    some = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))[:TERMS].sort().values
    share = len(ids) / len(some) / data.size
    ids, labels, factors = ids[some], labels[some], factors[some]
    relabelled = bool(data.relabelled.any())

    def mean(model: nn.Module) -> float:
        return float(dataset_losses(model, study.loss, study.train, chosen).double().mean())

    def terms(model: nn.Module) -> float:
        if not relabelled:
            losses = dataset_losses(model, study.loss, study.train, ids).double()
        else:
            losses = torch.empty(len(ids), dtype=torch.float64)
            new = labels != study.train.labels[ids]
            for mask in (new, ~new):
                if mask.any():
                    given = study.train.labels.clone()
                    given[ids[mask]] = labels[mask]
                    losses[mask] = dataset_losses(model, study.loss, study.train.with_labels(given), ids[mask]).double()
        return share * float(losses @ factors)

    size = sum(float(delta.double().square().sum()) for delta in change.values())
    start, begun = mean(study.model), terms(study.model)
    hidden = _rounding(study, chosen, start)
    best, least = 0.0, 0.0
    for step in STEPS:
        up, down = (study.edited({n: s * d for n, d in change.items()}).model for s in (step, -step))
        try:
            curved = (mean(up) + mean(down)) / 2 - start + study.weight_decay / 2 * step**2 * size
            moved = terms(up) - begun
        except InvalidInput:  # so far that the model overflows
            continue
        if step == 1 and abs(curved) + abs(moved) <= hidden:
            return 1.0
        value = curved + moved
        if value < least:
            best, least = step, value
        elif best:
            break
    return best


def _rounding(study: Study, chosen: Tensor, mean: float) -> float:
    """A change of the mean loss over some training images that rounding hides.

    A cross-entropy is a difference of outputs, so that it is rounded as they are: of a model that is nearly perfect, or
    has few bits, whole changes are lost.

    Args:
        study: whose model is meant.
        chosen: the training images.
        mean: their mean loss.

    Returns:
        The change.
    """
    size = abs(mean)
    if not isinstance(study.train, SampleSet):
        size = max(size, float(model_outputs(study.model, study.train, chosen).double().abs().mean()))
    return float(torch.finfo(next(study.model.parameters()).dtype).eps * size / len(chosen) ** 0.5)


def step_work(study: Study, images: int) -> Work:
    """What ``trusted_step`` takes at most for a change of so many training images, and the edited model's losses.

    Args:
        study: that is edited.
        images: that change.

    Returns:
        The work.
    """
    each = 2 * min(SAMPLE, len(study.train)) + min(TERMS, 2 * images)
    return Work(forward=len(STEPS) * each + len(study.test))


def edited_as_far(study: Study, estimator: Estimator, data: DataChange, **change: object) -> tuple[Study, float]:
    """The study after as much of an edit as ``trusted_step`` finds good.

    Args:
        study: to edit.
        estimator: fitted on it; it gives ``parameter_change``.
        data: the change of the training set.
        **change: the same as arguments of ``parameter_change``.

    Returns:
        The edited study, and the share, 1 where the estimator scales its edits itself; with 0 the weights go the
        shortest way that is tried, which shows the order of its effects and hardly changes anything.
    """
    delta = estimator.parameter_change(**change)  # type: ignore[arg-type]
    step = 1.0 if estimator.scales_edits else trusted_step(study, delta, data)
    return study.edited({name: (step or STEPS[-1]) * tensor for name, tensor in delta.items()}), step
