"""What a model says of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from influence_core.batches import samples_at_once
from influence_core.data import LabelledDataset, SampleSet
from influence_core.data.reading import spread_ids
from influence_core.errors import NotSupported
from influence_core.gradients.contexts import plain_attention
from influence_core.gradients.data import Batched
from influence_core.inputs import moved
from influence_core.losses import Loss
from influence_core.models.forward import Forward
from influence_core.progress import tick

_TRIED = 6


@torch.no_grad()
def model_outputs(model: nn.Module, data: Batched, ids: Sequence[int] | Tensor | None = None) -> Tensor:
    """Outputs of a model in eval mode, in dataset order.

    Args:
        model: in eval mode; it is not changed.
        data: what to run it on.
        ids: which samples; all by default.

    Returns:
        [n, K], on the CPU; [n, ...] where the model gives more axes, or one number per sample.

    Raises:
        NotSupported: if samples differ in the shape of their outputs.
    """
    forward = Forward(model)
    chosen = torch.arange(len(data)) if ids is None else torch.as_tensor(ids, dtype=torch.long)
    found = []
    with plain_attention():
        check_one_shape(forward, data)
        for part in chosen.split(samples_at_once()):
            tick()
            found.append(forward(data.batch(part)[0]).cpu())
    return torch.cat(found)


def check_one_shape(forward: Forward, data: Any) -> None:
    """Refuse outputs that are as long as their samples; only data that pad can have such.

    Args:
        forward: the model.
        data: of which some samples, spread evenly, are looked at alone.

    Raises:
        NotSupported: with the shapes of two samples.
    """
    if not getattr(data, "pads", False):
        return
    with plain_attention(), torch.no_grad():
        shapes = [tuple(forward(data.batch(one)[0]).shape[1:]) for one in spread_ids(len(data), _TRIED).split(1)]
    for shape in shapes:
        if shape != shapes[0]:
            raise NotSupported(
                f"samples have outputs of shapes {shapes[0]} and {shape}, of which there is no matrix of all. Losses "
                "there are, study.losses(), and methods that need no outputs: TracIn, RandProj, DataInf; or let the "
                "model give one row of outputs for each sample"
            )


@torch.no_grad()
def dataset_losses(
    model: nn.Module, loss: Loss, data: LabelledDataset, ids: Sequence[int] | Tensor | None = None
) -> Tensor:
    """Losses of a model in eval mode with the given labels, in dataset order.

    Args:
        model: in eval mode; it is not changed.
        loss: one loss per sample.
        data: what to run it on.
        ids: which samples; all by default.

    Returns:
        [n], on the CPU.
    """
    chosen = torch.arange(len(data)) if ids is None else torch.as_tensor(ids, dtype=torch.long)
    if not isinstance(data, SampleSet):
        return loss(model_outputs(model, data, chosen), data.labels[chosen])
    forward, found = Forward(model), []
    with plain_attention():
        for part in chosen.split(samples_at_once()):
            tick()
            inputs, labels = data.batch(part)
            outputs = forward(inputs)
            found.append(loss(outputs, moved(labels, outputs.device)).cpu())
    return torch.cat(found)
