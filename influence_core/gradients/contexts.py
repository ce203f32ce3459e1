"""Torch's settings for a pass of the engine, no longer than a ``with`` block, exceptions included."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from influence_core.imports import complete_torch
from influence_core.threads import WhileNeeded


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


_plain_attention = WhileNeeded(_plain_kernels)


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Attention is computed step by step, in this and in every other thread, as long as one of them is inside.

    The fused path of transformer layers calls no submodule, so that hooks would see nothing, and the fused kernels have
    no second derivative. Which is taken is a setting of the process: every pass of the package holds this one, so that
    no number depends on what another thread does at that moment.

    Yields:
        Nothing.
    """
    complete_torch()
    with _plain_attention():
        yield


@contextlib.contextmanager
def no_autocast() -> Iterator[None]:
    """The engine's own products are taken in the parameters' type, whatever the forward pass ran in."""
    with contextlib.ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
