"""Torch's global random numbers, seeded for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators for a while: that of the CPU, and that of a device, which dropout draws from.

    Both are as before afterwards. Generators of other devices are left alone; ``torch.manual_seed`` would seed them.

    Args:
        seed: of both.
        device: where the model is.

    Yields:
        Nothing.
    """
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for one in cuda:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        yield
