"""What the datasets of this package have in common: threads may share them, and inputs are stacked by one rule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from influence_core.errors import InvalidInput


class Shareable:
    """Base of datasets that several threads may read at once; all others are read by one thread at a time."""


def stack_inputs(inputs: list[Tensor], ids: Sequence[int], name: str) -> Tensor:
    """Stack input tensors, naming the first that has another shape.

    Args:
        inputs: tensors of one shape.
        ids: the sample id of each.
        name: what the message calls the dataset.

    Returns:
        A tensor [B, ...].

    Raises:
        InvalidInput: if a shape differs.
    """
    for tensor, index in zip(inputs, ids, strict=True):
        if tensor.shape != inputs[0].shape:
            raise InvalidInput(
                f"{name} sample {index} has shape {tuple(tensor.shape)}, sample {ids[0]} has "
                f"{tuple(inputs[0].shape)}: all images must have one size. Resize them in the dataset's transform."
            )
    return torch.stack(inputs)
