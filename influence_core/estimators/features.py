"""The last linear layer of a model, and what goes into it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from influence_core.data import LabelledDataset
from influence_core.study import Study

_BATCH = 512


def final_linear(study: Study) -> str | None:
    """The linear layer whose output is the model's.

    Args:
        study: with the model.

    Returns:
        Its name, or ``None`` if there is none that is used once, on one vector per sample.
    """
    inputs, _ = study.train.batch([0])
    seen: list[tuple[str, Tensor, int]] = []
    handles = [
        module.register_forward_hook(
            lambda _, args, output, name=name: seen.append((name, output, args[0].dim() if args else 0))
        )
        for name, module in study.model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with torch.no_grad():
            outputs = study.model(inputs.to(study.device))
    finally:
        for handle in handles:
            handle.remove()
    ends = [name for name, output, axes in seen if axes == 2 and torch.equal(output, outputs)]
    return None if not ends or [name for name, _, _ in seen].count(ends[-1]) > 1 else ends[-1]


@torch.no_grad()
def layer_inputs(model: nn.Module, path: str, data: LabelledDataset) -> Tensor:
    """What goes into a layer.

    Args:
        model: in eval mode.
        path: name of the layer.
        data: of n samples.

    Returns:
        [n, d], on the device of the model.
    """
    found: list[Tensor] = []
    device = next(model.parameters()).device
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, args: found.append(args[0]))
    try:
        for ids in torch.arange(len(data)).split(_BATCH):
            model(data.batch(ids)[0].to(device))
    finally:
        handle.remove()
    return torch.cat(found)
