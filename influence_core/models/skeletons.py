"""Building a model without drawing its weights, to see what it is like."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_WEIGHTS = {
    torch.empty,
    torch.empty_like,
    torch.empty_strided,
    torch.normal,
    torch.rand,
    torch.randn,
    torch.rand_like,
    torch.randn_like,
}
"""Functions that make what a model's weights are made of."""


@contextmanager
def skeleton() -> Iterator[None]:
    """Inside of it, in this thread, modules get weights that have a shape and no numbers, and no memory.

    What a constructor computes (tables of positions, widths of stages) is computed as ever: unlike under
    ``torch.device("meta")``, only what is drawn at random, or left empty to be drawn, is on the "meta" device. Torch's
    random numbers stay where they are.
    """
    with _Skeleton():
        yield


class _Skeleton(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _WEIGHTS:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def shapes(model: nn.Module) -> dict[str, tuple[int, ...] | str]:
    """Shape of everything in a model's state dict, by name; of extra state, its type."""
    return {
        name: tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        for name, value in model.state_dict().items()
    }
