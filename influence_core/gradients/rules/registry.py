"""Which rule belongs to which layer type."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from influence_core.gradients.forms import Form


@dataclass
class Call:
    """One call of a layer in a forward pass, with what came back for it.

    Attributes:
        args: positional arguments, tensors arranged so that samples come first where the layer's features come last.
        kwargs: keyword arguments.
        gradients: gradients of the loss with respect to each output tensor; None for one that the loss does not use.
        batch: number of samples B.
        batched: for every flattened argument, whether its first axis runs over samples.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    gradients: tuple[Tensor | None, ...]
    batch: int
    batched: tuple[bool, ...] = ()

    @property
    def input(self) -> Tensor:
        """The first argument, under whatever name."""
        value = self.args[0] if self.args else next(iter(self.kwargs.values()))
        if not isinstance(value, Tensor):
            raise TypeError(f"expected a tensor as first argument, got {type(value).__name__}")
        return value

    @property
    def gradient(self) -> Tensor:
        """The gradient of the only output."""
        (gradient,) = self.gradients
        if gradient is None:
            raise ValueError("the loss does not depend on this call")
        return gradient


Rule = Callable[[Any, Call, frozenset[str]], Iterable[tuple[str, Form]]]
"""``rule(layer, call, wanted)`` yields ``(parameter name within the layer, its per-sample gradients)``."""


@dataclass(frozen=True)
class Entry:
    """A registered rule.

    Attributes:
        rule: the function.
        parameters: names, within the layer, of the parameters whose gradients it gives.
        features_last: whether samples may stand on another axis than the first in the layer's input.
    """

    rule: Rule
    parameters: tuple[str, ...]
    features_last: bool


_ENTRIES: dict[type[nn.Module], Entry] = {}
_FORWARDS = ("forward", "_conv_forward", "_check_input_dim")


def register(
    *types: type[nn.Module], parameters: tuple[str, ...] = ("weight", "bias"), features_last: bool = False
) -> Callable[[Rule], Rule]:
    """Register a rule for layer types and for their subclasses that compute the same.

    Args:
        *types: the layer types.
        parameters: names, within the layer, of the parameters whose gradients the rule gives.
        features_last: whether the layer acts on its input's last axes only, so that it does not matter where among
            the others the samples are.

    Returns:
        A decorator that leaves the rule as it is.

    Example:
        >>> from torch import nn
        >>> from influence_core.gradients.rules import entry_for
        >>> entry_for(nn.Linear(2, 2)).rule.__name__
        'linear'
    """

    def enter(rule: Rule) -> Rule:
        for kind in types:
            _ENTRIES[kind] = Entry(rule, parameters, features_last)
        return rule

    return enter


def entry_for(layer: nn.Module) -> Entry | None:
    """The rule of this layer, or None: an unknown type, or a subclass with a forward pass of its own."""
    for kind in type(layer).__mro__:
        if kind in _ENTRIES:
            same = all(getattr(type(layer), name, None) is getattr(kind, name, None) for name in _FORWARDS)
            return _ENTRIES[kind] if same else None
    return None


def sum_to(products: Tensor, kept: int) -> Tensor:
    """``[B, ..., *shape] -> [B, *shape]``: sum over all axes but the first and the last ``kept`` ones."""
    between = tuple(range(1, products.dim() - kept))
    return products.sum(between) if between else products


def sum_to_channels(products: Tensor) -> Tensor:
    """``[B, C, ...] -> [B, C]``."""
    return products.flatten(2).sum(2) if products.dim() > 2 else products
