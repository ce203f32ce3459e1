"""Whether a model that a file describes can be of the size of its weights, before any memory is taken for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from influence_core.errors import InvalidInput
from influence_core.models.architectures import Architecture, builder_of, made

_SPARE = 10_000_000
"""Numbers more than twice those of its file that a model may hold: 40 MB."""


def check_size(architecture: Architecture, weights: Mapping[str, Any], source: str) -> None:
    """Refuse arguments that ask for a far larger model than the weights beside them are of.

    Args:
        architecture: of this library, torchvision or timm; others are built as their users wrote them.
        weights: name -> tensor, what is to be put into the model.
        source: where they come from, for the message.

    Raises:
        InvalidInput: if there are more than twice as many numbers in the model.
    """
    if not builder_of(architecture.name).__module__.startswith("influence_core"):
        return
    try:
        with torch.device("meta"):  # shapes, and no memory
            own = made(architecture).state_dict()
    except Exception:  # a constructor that computes with its numbers; or a refusal, which building it repeats
        return
    needed, there = _numbers(own), _numbers(weights)
    if needed > 2 * there + _SPARE:
        raise InvalidInput(
            f"the model {architecture.name} with the arguments {architecture.arguments} has {needed:,} numbers, and "
            f"the weights in {source} are {there:,}. Build the model with the arguments it was trained with."
        )


def _numbers(state: Mapping[str, Any]) -> int:
    return sum(value.numel() for value in state.values() if isinstance(value, Tensor))
