"""What a model says of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from influence_core.batches import samples_at_once
from influence_core.data import LabelledDataset, SampleSet
from influence_core.errors import NotSupported
from influence_core.gradients.contexts import plain_attention
from influence_core.gradients.data import Batched
from influence_core.inputs import moved
from influence_core.losses import Loss
from influence_core.models.forward import Forward
from influence_core.progress import tick


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
        for part in chosen.split(samples_at_once()):
            tick()
            found.append(forward(data.batch(part)[0]).cpu())
    for outputs in found:
        if outputs.shape[1:] != found[0].shape[1:]:
            raise NotSupported(
                f"samples have outputs of shapes {tuple(found[0].shape[1:])} and {tuple(outputs.shape[1:])}, which "
                "make no tensor of all: their losses do, study.losses()"
            )
    return torch.cat(found)


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
