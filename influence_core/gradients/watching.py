"""What a probe looks at while a model runs: losses, shapes, and how much autograd keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from influence_core.gradients.tape import check_losses
from influence_core.gradients.types import Loss

Shapes = dict[int, list[tuple[int, ...] | None]]
"""Id of a module -> shapes of its flattened arguments, ``None`` for what is no tensor."""


class Watched:
    """A loss that tells what it was asked, and lets somebody know between the forward and the backward pass."""

    def __init__(self, loss: Loss, between: Callable[[], None] = lambda: None) -> None:
        self.loss, self._between = loss, between

    def __call__(self, outputs: Any, labels: Any) -> Tensor:
        """Losses, [B]."""
        self._between()
        losses = self.loss(outputs, labels)
        check_losses(losses, len(labels))
        self.outcome = (outputs.detach() if isinstance(outputs, Tensor) else None, losses.detach())
        return losses


class ShapesRecorded:
    """Notes, for every module's first call, the shapes of its tensor arguments."""

    def __init__(self, modules: dict[int, nn.Module], shapes: Shapes) -> None:
        self._modules, self._shapes, self._handles = modules, shapes, []  # type: ignore[var-annotated]

    def __enter__(self) -> None:
        for key, module in self._modules.items():
            self._handles.append(module.register_forward_pre_hook(self._note(key), with_kwargs=True))

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, key: int) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            leaves = pytree.tree_leaves((args, kwargs))
            seen = [tuple(leaf.shape) if isinstance(leaf, Tensor) else None for leaf in leaves]
            self._shapes.setdefault(key, seen)

        return note


class SavedBytes:
    """Counts the bytes that autograd keeps during a forward pass, parameters aside."""

    def __init__(self) -> None:
        self.total = 0
        self._seen: set[int] = set()
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter) and tensor.data_ptr() not in self._seen:
            self._seen.add(tensor.data_ptr())
            self.total += tensor.numel() * tensor.element_size()
        return tensor

    def __enter__(self) -> SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)
