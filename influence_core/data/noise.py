"""Label noise: labels that are really changed, and known to be."""

from __future__ import annotations

import torch
from torch import Tensor

from influence_core.errors import InvalidInput


def symmetric_noise(labels: Tensor, rate: float, num_classes: int, seed: int = 0) -> Tensor:
    """Change a share of the labels, each to one of the other classes with equal chance.

    Exactly ``round(rate * N)`` labels differ afterwards. (GEX draws from all K classes, so that a nominal 10 %
    there is 9 % in truth; here the rate is what it says.)

    Args:
        labels: int64 [N].
        rate: share of labels to change, from 0 to 1.
        num_classes: K.
        seed: of the generator.

    Returns:
        The noisy labels, int64 [N]; ``labels`` does not change.

    Raises:
        InvalidInput: if ``rate`` is not between 0 and 1, or there is no other class to change to.
    """
    if not 0.0 <= rate <= 1.0:
        raise InvalidInput(f"noise is {rate}; it is the share of labels to change, so between 0 and 1 (0.1 for 10 %)")
    if num_classes < 2:
        raise InvalidInput(f"label noise needs at least two classes, there is {num_classes}")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(labels.numel(), generator=generator)[: round(rate * labels.numel())]
    shift = torch.randint(1, num_classes, (chosen.numel(),), generator=generator)
    noisy = labels.clone()
    noisy[chosen] = (labels[chosen] + shift) % num_classes
    return noisy
