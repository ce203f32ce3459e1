"""Losses with one value per sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Loss = Callable[[Tensor, Any], Tensor]
"""``loss(outputs [B, ...], labels [B, ...]) -> Tensor [B]``: one loss per sample, in nats for cross-entropy."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample.

    Args:
        logits: [B, K].
        labels: int64 [B].

    Returns:
        Losses [B], in nats.
    """
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def as_rows(outputs: Tensor) -> Tensor:
    """A model's outputs as one row per sample: the K numbers that a loss depends on.

    Args:
        outputs: [B] or [B, ...].

    Returns:
        [B, K]; outputs that are rows already are returned as they are.

    Example:
        >>> as_rows(torch.zeros(3)).shape, as_rows(torch.zeros(3, 5, 2)).shape
        (torch.Size([3, 1]), torch.Size([3, 10]))
    """
    return outputs if outputs.dim() == 2 else outputs.reshape(len(outputs), -1)
