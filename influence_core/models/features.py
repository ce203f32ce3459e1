"""The last linear layer of a model, and what goes into it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from influence_core.batches import id_batches
from influence_core.data import LabelledDataset
from influence_core.gradients.contexts import plain_attention
from influence_core.inputs import Inputs, moved
from influence_core.models.private import private


def final_linear(model: nn.Module, inputs: Inputs) -> str | None:
    """The linear layer whose output is the model's.

    Args:
        model: in eval mode; it is not changed.
        inputs: some samples, [B, ...].

    Returns:
        Its name, or ``None`` if there is none that is used once, on one vector per sample.
    """
    model = private(model)  # hooks go nowhere
    device = next(model.parameters()).device
    seen: list[tuple[str, Tensor, int]] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(
                lambda _, args, output, name=name: seen.append((name, output, args[0].dim() if args else 0))
            )
    with plain_attention(), torch.no_grad():
        outputs = model(moved(inputs, device))
    ends = [name for name, output, axes in seen if axes == 2 and torch.equal(output, outputs)]
    return None if not ends or [name for name, _, _ in seen].count(ends[-1]) > 1 else ends[-1]


def linear_in_weights(model: nn.Module, inputs: Inputs) -> bool:
    """Whether the outputs are linear in all that is trained: in one linear layer at the end, and nothing below it.

    Args:
        model: in eval mode; it is not changed.
        inputs: some samples, [B, ...].

    Returns:
        Whether it is so, as for softmax regression; the loss is then convex in the weights.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    path = final_linear(model, inputs) if 0 < len(trained) <= 2 else None
    if path is None:
        return False
    own = {id(parameter) for parameter in model.get_submodule(path).parameters()}
    return all(id(parameter) in own for parameter in trained)


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
    model = private(model)
    device = next(model.parameters()).device
    model.get_submodule(path).register_forward_pre_hook(lambda _, args: found.append(args[0]))
    with plain_attention():
        for ids in id_batches(len(data)):
            model(moved(data.batch(ids)[0], device))
    return torch.cat(found)
