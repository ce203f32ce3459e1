"""Changes to a model and to torch's settings that last no longer than a ``with`` block, exceptions included."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextlib.contextmanager
def unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Buffers that a forward pass changes or replaces, even in eval mode, are put back."""
    before = [
        (module, name, buffer, buffer._version, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, version, value in before:
                if buffer._version != version:
                    buffer.copy_(value)
                module._buffers[name] = buffer


@contextlib.contextmanager
def no_fast_attention() -> Iterator[None]:
    """The fused inference path of transformer layers calls no submodule, so that hooks would see nothing."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextlib.contextmanager
def removed(handle: Any) -> Iterator[None]:
    """A hook is removed at the end."""
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def no_autocast() -> Iterator[None]:
    """The engine's own products are taken in the parameters' type, whatever the forward pass ran in."""
    with contextlib.ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
