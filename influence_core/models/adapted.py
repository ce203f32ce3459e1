"""A model of any kind as the rest of the package knows one: it takes one batch and gives one tensor.

Inputs that are a ``Bundle`` are unpacked by a hook before the model's forward pass, and of an output that is an object
(``.logits``) a hook after it takes the tensor. Hooks are torch's own means for that: names, parameters, state dict and
class of the model stay what they were, and copies keep them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from influence_core.errors import InvalidInput
from influence_core.inputs import Bundle, Inputs
from influence_core.models.private import private

Output = Callable[[Any], Tensor]
"""Takes the tensor ``[B, ...]`` that a loss needs from whatever a model answers."""


@dataclass(frozen=True)
class Unpack:
    """A hook before the forward pass: the parts of a bundle as positional or named arguments."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Arguments in place of a bundle; others stay."""
        if len(args) == 1 and isinstance(args[0], Bundle) and not kwargs:
            return args[0].args, args[0].kwargs
        return None


@dataclass(frozen=True)
class Pick:
    """A hook after the forward pass: the tensor in the model's output.

    Attributes:
        output: takes it.
    """

    output: Output

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """The tensor."""
        return output if isinstance(output, Tensor) and self.output is logits else self.output(output)


def logits(output: Any) -> Tensor:
    """The tensor in what a model answers, where that is clear.

    Args:
        output: a tensor, an object with ``.logits``, or a mapping with "logits".

    Returns:
        The tensor.

    Raises:
        InvalidInput: naming the type, if there is none.
    """
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    found = output if isinstance(output, Tensor) else found
    if not isinstance(found, Tensor):
        kind = f"{type(output).__module__}.{type(output).__qualname__}".removeprefix("builtins.")
        parts = f" with {', '.join(map(repr, output))}" if isinstance(output, Mapping) else ""
        raise InvalidInput(
            f"the model answers with a {kind}{parts}, in which there is no tensor 'logits': say where the outputs are, "
            "ic.Study(..., output=lambda answer: answer.predictions)"
        )
    return found


def unpack(model: nn.Module, inputs: Inputs) -> None:
    """Let a model take bundles, if that is what it is given.

    Args:
        model: is changed in place, once.
        inputs: some batch.
    """
    if isinstance(inputs, Bundle) and not _own(model._forward_pre_hooks, Unpack):
        model.register_forward_pre_hook(Unpack(), prepend=True, with_kwargs=True)


def pick(model: nn.Module, output: Output) -> None:
    """Let a model give a tensor.

    Args:
        model: is changed in place; a former choice is forgotten.
        output: takes the tensor from what the model answers.
    """
    for key in _own(model._forward_hooks, Pick):
        del model._forward_hooks[key]
    model.register_forward_hook(Pick(output))


def adapted(model: nn.Module, output: Output = logits) -> nn.Module:
    """A model for ``influence_core.gradients`` and ``curvature``; ``ic.Study`` adapts its own by itself.

    Args:
        model: that takes several tensors, or answers with an object; it is only read.
        output: takes the tensor ``[B, ...]`` from what it answers.

    Returns:
        A model with the same weights in the same memory, and the same names, that takes a ``Bundle`` (or a tensor) and
        gives a tensor.

    Example:
        >>> import torch
        >>> model = adapted(nn.Bilinear(2, 2, 1))
        >>> model(Bundle((torch.ones(3, 2), torch.ones(3, 2)))).shape
        torch.Size([3, 1])
    """
    mine = private(model)
    if not _own(mine._forward_pre_hooks, Unpack):
        mine.register_forward_pre_hook(Unpack(), prepend=True, with_kwargs=True)
    pick(mine, output)
    return mine


@contextmanager
def adapting(model: nn.Module, inputs: Inputs) -> Iterator[None]:
    """A model takes bundles and gives tensors inside the ``with`` block, and is as before afterwards.

    Args:
        model: is changed in place meanwhile.
        inputs: what it is given.

    Yields:
        Nothing.
    """
    handles = []
    if isinstance(inputs, Bundle) and not _own(model._forward_pre_hooks, Unpack):
        handles.append(model.register_forward_pre_hook(Unpack(), prepend=True, with_kwargs=True))
    if not _own(model._forward_hooks, Pick):
        handles.append(model.register_forward_hook(Pick(logits)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def adapted_like(model: nn.Module, other: nn.Module) -> nn.Module:
    """A model that takes and gives what another one does.

    Args:
        model: is changed in place.
        other: with hooks of this module, or without.

    Returns:
        The model.
    """
    if _own(other._forward_pre_hooks, Unpack) and not _own(model._forward_pre_hooks, Unpack):
        model.register_forward_pre_hook(Unpack(), prepend=True, with_kwargs=True)
    for key in _own(other._forward_hooks, Pick):
        pick(model, other._forward_hooks[key].output)  # type: ignore[attr-defined]
    return model


def as_given(model: nn.Module) -> nn.Module:
    """A copy without the hooks of this module, for comparing it with what was built; weights are shared."""
    if not _own(model._forward_pre_hooks, Unpack) and not _own(model._forward_hooks, Pick):
        return model
    mine = private(model)
    for key in _own(mine._forward_pre_hooks, Unpack):
        del mine._forward_pre_hooks[key], mine._forward_pre_hooks_with_kwargs[key]
    for key in _own(mine._forward_hooks, Pick):
        del mine._forward_hooks[key]
    return mine


def _own(hooks: Mapping[int, Any], kind: type) -> list[int]:
    return [key for key, hook in hooks.items() if isinstance(hook, kind)]
