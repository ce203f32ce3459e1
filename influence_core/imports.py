"""Parts of torch that it would import in the middle of the work."""

from __future__ import annotations

import importlib
import sys

from influence_core.threads import uninterrupted

_LATE = ("torch.fx.experimental.symbolic_shapes", "torch._dynamo")
"""What ``torch.autograd.grad`` with given gradients, and the first optimiser, import when they are first used."""


def complete_torch() -> None:
    """Import what torch imports late; to be called before any work begins.

    A Ctrl-C in the middle of such an import leaves half a module behind (``module 'sympy' has no attribute
    'printing'``), and nothing that needs it works until Python is started anew. So the imports are made at once, and a
    Ctrl-C waits for their end. They take a second, once; ``import influence_core`` does without them.
    """
    if all(name in sys.modules for name in _LATE) and _through:
        return
    with uninterrupted():
        for name in _LATE:
            importlib.import_module(name)
        _through.append(True)


_through: list[bool] = []
