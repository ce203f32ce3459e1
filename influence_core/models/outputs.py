"""What a model says of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from influence_core.data import LabelledDataset

_BATCH = 512


@torch.no_grad()
def model_outputs(model: nn.Module, data: LabelledDataset, ids: Sequence[int] | Tensor | None = None) -> Tensor:
    """Outputs of a model in eval mode, in dataset order.

    Args:
        model: in eval mode.
        data: what to run it on.
        ids: which samples; all by default.

    Returns:
        [n, K], on the CPU.
    """
    device = next(model.parameters()).device
    chosen = torch.arange(len(data)) if ids is None else torch.as_tensor(ids, dtype=torch.long)
    return torch.cat([model(data.batch(part)[0].to(device)).cpu() for part in chosen.split(_BATCH)])
