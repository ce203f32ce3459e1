"""Losses with one value per sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""``loss(outputs [B, ...], labels [B]) -> Tensor [B]``: one loss per sample, in nats for cross-entropy."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample.

    Args:
        logits: [B, K].
        labels: int64 [B].

    Returns:
        Losses [B], in nats.
    """
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")
