"""Whether the weights are what the recipe of their training says: at rest under its loss and weight decay."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from influence_core.diagnosis.finding import Finding
from influence_core.diagnosis.sample import Part
from influence_core.gradients import mean_gradient, squared_norms
from influence_core.study import Study

FAR = 0.3
"""The mean gradient over the root mean square of single ones: trained networks have 0.05 to 0.2, of 256 samples."""

TRIED = 256
FEW = 32
_SAME = 1e-3


def check_recipe(study: Study, train: Part) -> Iterator[Finding]:
    """A trajectory that ends elsewhere, a weight decay that does not fit, weights far from a minimum.

    Args:
        study: only read.
        train: samples of the training set.

    Yields:
        One finding at most.
    """
    away = _distance(study)
    if away > _SAME:
        yield _finding(
            f"the last checkpoint of the trajectory is {away:.1%} of their length away from the model's weights",
            "the trajectory is that of another training; TracIn and its kin add up the wrong gradients",
            "study = study.replaced(trajectory=...) with the checkpoints of this model, or trajectory=None",
        )
        return
    ids = train.ids[:: max(1, len(train) // TRIED)][:TRIED]
    if len(ids) < FEW:
        return
    some = train.data.subset(ids)
    mean = mean_gradient(study.model, study.loss, some)
    typical = math.sqrt(float(squared_norms(study.model, study.loss, some).double().mean()))
    if typical == 0 or not math.isfinite(typical):
        return
    weights = {name: p.detach() for name, p in study.model.named_parameters() if name in mean}
    decay = study.weight_decay
    gradient = _norm([mean[n] for n in mean])
    whole = _norm([mean[n] + decay * weights[n] for n in mean])
    noise = 1 / math.sqrt(len(ids))
    said = (
        f"the mean gradient of {len(ids)} training images is {gradient / typical:.2f} of a single one's, with the "
        f"weight decay {decay:g} it is {whole / typical:.2f}"
    )
    if whole > 3 * gradient and whole / typical > max(2 * noise, 0.25):
        yield _finding(
            f"the weight decay of {decay:g} pulls far harder than the loss: {said}",
            "at weights that were trained with it both would balance; influence functions assume the wrong minimum",
            "study = study.replaced(weight_decay=...) with that of the training",
        )
    elif whole / typical > max(FAR, 4 * noise):
        yield _finding(
            f"the weights are far from a minimum of the training loss: {said}; at the end of a training it is 0.05 to "
            "0.2",
            "influence functions hold near a minimum; here they explain a model that would still move",
            "train to the end, or take the last checkpoint: ic.models.load_weights(model, file)",
        )


def _finding(what: str, why: str, mend: str) -> Finding:
    return Finding("recipe-does-not-fit", "warning", what, why, mend)


def _distance(study: Study) -> float:
    """From the model's weights to those of the last checkpoint, over the length of the former; 0 without one."""
    if study.trajectory is None:
        return 0.0
    last = study.trajectory[-1].state
    pairs = [(p.detach().cpu(), last[n]) for n, p in study.model.named_parameters() if n in last]
    length = _norm([p for p, _ in pairs])
    return _norm([p - other.to(p) for p, other in pairs]) / length if length else 0.0


def _norm(tensors: list[torch.Tensor]) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))
