"""What a model says of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from influence_core.batches import samples_at_once
from influence_core.gradients.contexts import plain_attention
from influence_core.gradients.data import Batched
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
        [n, K], on the CPU.
    """
    forward = Forward(model)
    chosen = torch.arange(len(data)) if ids is None else torch.as_tensor(ids, dtype=torch.long)
    found = []
    with plain_attention():
        for part in chosen.split(samples_at_once()):
            tick()
            found.append(forward(data.batch(part)[0]).cpu())
    return torch.cat(found)
