"""Choosing parameters: by name, pattern, module, predicate or boolean mask."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from influence_core.gradients.types import SelectionError


@dataclass(frozen=True)
class Selection:
    """The chosen parameters of a model.

    Attributes:
        parameters: name -> parameter, in the model's order, tied ones once under their first name.
        masks: name -> boolean mask of the parameter's shape, for those of which only some entries are chosen.
    """

    parameters: dict[str, nn.Parameter]
    masks: dict[str, Tensor] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of chosen entries."""
        return sum(
            int(self.masks[name].sum()) if name in self.masks else parameter.numel()
            for name, parameter in self.parameters.items()
        )


Choice = None | str | Sequence[str] | Callable[[str, nn.Parameter], bool] | Mapping[str, Tensor] | Selection


def select(model: nn.Module, choice: Choice = None) -> Selection:
    """Choose among the trainable parameters of a model.

    Args:
        model: whose parameters they are.
        choice: ``None`` for all that require a gradient; a parameter's name, a module's name (all below it) or a
            pattern with ``* ? []``; a sequence of these; a predicate ``(name, parameter) -> bool``; a dict
            name -> boolean mask of the parameter's shape; or a selection, also from a copy of this model.

    Returns:
        The selection.

    Raises:
        SelectionError: A name or pattern matches nothing, a named parameter is frozen, a mask has another shape or is
            not boolean, or nothing is chosen.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> list(select(model, "2").parameters)
        ['2.weight', '2.bias']
        >>> list(select(model, "*.bias").parameters)
        ['0.bias', '2.bias']
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if isinstance(choice, Selection):
        return _rebound(model, choice)
    masks: dict[str, Tensor] = {}
    if choice is None:
        chosen = trainable
    elif isinstance(choice, Mapping):
        chosen, masks = _by_masks(model, trainable, choice)
    elif callable(choice):
        chosen = {name: p for name, p in trainable.items() if choice(name, p)}
    else:
        names: set[str] = set()
        for pattern in [choice] if isinstance(choice, str) else choice:
            names |= _matches(model, trainable, pattern)
        chosen = {name: p for name, p in trainable.items() if name in names}
    if not chosen:
        raise SelectionError("no trainable parameter is chosen; set requires_grad on some, or widen the selection")
    return Selection(dict(chosen), masks)


def _matches(model: nn.Module, trainable: Mapping[str, nn.Parameter], pattern: str) -> set[str]:
    """Trainable parameters that one name or pattern stands for; tied ones are found under any of their names."""
    everywhere = dict(model.named_parameters(remove_duplicate=False))
    first_names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        name
        for name in everywhere
        if name == pattern or name.startswith(pattern + ".") or fnmatch.fnmatchcase(name, pattern)
    }
    if not found:
        modules = [name for name, _ in model.named_modules() if name and name != pattern]
        near = difflib.get_close_matches(pattern, [*everywhere, *modules], n=3, cutoff=0.4)
        hint = f"; close to it are {', '.join(map(repr, near))}" if near else ""
        raise SelectionError(
            f"{pattern!r} is neither a parameter, nor a module with parameters, nor a pattern that matches one{hint}"
        )
    result = {first_names[id(everywhere[name])] for name in found}
    frozen = sorted(result - set(trainable))
    if frozen and (pattern in everywhere or len(frozen) == len(result)):
        raise SelectionError(f"{frozen[0]!r} is frozen; call requires_grad_(True) on it, or leave it out")
    return result & set(trainable)


def _by_masks(
    model: nn.Module, trainable: Mapping[str, nn.Parameter], given: Mapping[str, Tensor]
) -> tuple[dict[str, nn.Parameter], dict[str, Tensor]]:
    masks: dict[str, Tensor] = {}
    everywhere = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in given.items():
        if name not in everywhere:
            raise SelectionError(f"a mask is given for {name!r}, which is not a parameter of the model")
        (first,) = _matches(model, trainable, name)
        expected = tuple(trainable[first].shape)
        if mask.dtype != torch.bool or tuple(mask.shape) != expected:
            raise SelectionError(
                f"the mask of {name!r} is {tuple(mask.shape)} of {mask.dtype}; expected {expected} of torch.bool"
            )
        masks[first] = mask.detach().to(trainable[first].device)
    masks = {name: mask for name, mask in masks.items() if mask.any()}
    chosen = {name: parameter for name, parameter in trainable.items() if name in masks}
    return chosen, {name: mask for name, mask in masks.items() if not mask.all()}


def _rebound(model: nn.Module, selection: Selection) -> Selection:
    own = dict(model.named_parameters())
    for name, parameter in selection.parameters.items():
        if name not in own or own[name].shape != parameter.shape:
            raise SelectionError(
                f"the selection's parameter {name!r} is not in this model; select from this model again"
            )
    return Selection({name: own[name] for name in selection.parameters}, dict(selection.masks))
