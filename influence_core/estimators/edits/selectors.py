"""Which parameters a partial edit may change: whole output units of linear and convolutional layers, or masks.

The selectors of Lyu et al. (2023, section 4). Normalisation layers are never selected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from influence_core.batches import OUTPUT_MATRICES, id_batches
from influence_core.errors import InvalidInput
from influence_core.gradients import Samples, plain_attention
from influence_core.losses import Loss
from influence_core.models.private import private

Selector = Literal["top_outputs", "top_gradients", "threshold", "random"]

_FIRST_THRESHOLD, _THRESHOLD_STEP = 1.0, 0.01


class Masks(Mapping[str, Tensor]):
    """Boolean masks of parameters as a hyper-parameter: they can be compared, saved and shown, and do not change.

    Args:
        masks: parameter name -> boolean mask of its shape.

    Raises:
        InvalidInput: if a mask is not a boolean tensor, or none chooses anything.

    Example:
        >>> masks = Masks({"weight": torch.tensor([[True, False]])})
        >>> masks, masks == Masks({"weight": torch.tensor([[True, False]])})
        (Masks(weight: 1 of 2), True)
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        for name, mask in masks.items():
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                given = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                raise InvalidInput(f"the mask of {name!r} is {given}; expected a tensor of torch.bool")
        self._masks = {name: mask.detach().clone() for name, mask in masks.items()}
        if not any(bool(mask.any()) for mask in self._masks.values()):
            raise InvalidInput("the masks choose no parameter: set some entries to True")

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping) or self.keys() != other.keys():
            return False
        return all(isinstance(other[n], Tensor) and torch.equal(m.cpu(), other[n].cpu()) for n, m in self.items())

    def __hash__(self) -> int:
        return hash(frozenset((name, int(mask.sum())) for name, mask in self.items()))

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}: {int(mask.sum())} of {mask.numel()}" for name, mask in self.items())
        return f"Masks({parts})"


def choose(selector: str, ratio: float, model: nn.Module, loss: Loss, data: Any, seed: int = 0) -> dict[str, Tensor]:
    r"""Masks of the parameters that a selector chooses, layer by layer.

    Of every trainable ``Linear`` and ``Conv`` layer with p weights and biases, :math:`k = \lfloor\rho p\rfloor` are
    chosen. The strength of an output unit is :math:`|\overline{a}|`, the absolute mean over images (and places) of the
    layer's own output, before any normalisation and activation, or of the derivative of the loss with respect to it.

    - ``top_outputs``: the strongest units by output, each with all its incoming weights and its bias, as long as they
      fit into k; what is left of k is drawn from the incoming weights of the next unit.
    - ``top_gradients``: the same by derivative.
    - ``threshold``: k drawn from all parameters of the units whose output is stronger than a threshold. It starts at 1
      in every layer and falls by 0.01 until there are enough. (In the authors' code a layer starts where the layer
      before it ended; it then is a threshold of the order of the layers.)
    - ``random``: k drawn from all parameters of the layer.

    Args:
        selector: one of the four.
        ratio: rho, above 0 and at most 1.
        model: in eval mode; it is not changed.
        loss: one loss per sample.
        data: the images that are to be removed, or that change otherwise.
        seed: of the draws.

    Returns:
        Parameter name -> boolean mask, in the model's order; layers that the model never calls as modules are left out.

    Raises:
        InvalidInput: if nothing can be chosen.
    """
    found = _layers(model)
    if not found:
        raise InvalidInput(
            "the model has no trainable Linear or Conv layer to choose from: give masks, selector={'weight': mask}"
        )
    strengths = {} if selector == "random" else _strengths(model, loss, data, selector == "top_gradients")
    generator = torch.Generator().manual_seed(seed)
    chosen: dict[str, Tensor] = {}
    for layer in found:
        count = math.floor(ratio * layer.size + 1e-9)
        if selector == "random":
            units = torch.zeros(layer.size, dtype=torch.bool)
            units[torch.randperm(layer.size, generator=generator)[:count]] = True
        elif layer.name not in strengths:
            continue
        elif selector == "threshold":
            units = _threshold(layer, strengths[layer.name], count, generator)
        else:
            units = _strongest(layer, strengths[layer.name], count, generator)
        chosen |= layer.masks(units)
    chosen = {name: mask for name, mask in chosen.items() if bool(mask.any())}
    if not chosen:
        raise InvalidInput(f"ratio={ratio} of a layer's parameters is less than one in every layer: raise it")
    parameters = dict(model.named_parameters())
    return {name: chosen[name].to(parameters[name].device) for name in parameters if name in chosen}


@dataclass(frozen=True)
class _Layer:
    """A layer's parameters as one row: its weights, unit after unit, then its biases."""

    name: str
    weight: str
    bias: str | None
    shape: torch.Size

    @property
    def units(self) -> int:
        return self.shape[0]

    @property
    def incoming(self) -> int:
        return self.shape.numel() // self.units

    @property
    def size(self) -> int:
        return self.shape.numel() + (self.units if self.bias else 0)

    def of_units(self, units: Tensor) -> Tensor:
        """Everything that belongs to some units, boolean [size]."""
        chosen = torch.zeros(self.units, dtype=torch.bool)
        chosen[units] = True
        weights = chosen[:, None].expand(self.units, self.incoming).flatten()
        return torch.cat([weights, chosen]) if self.bias else weights

    def masks(self, row: Tensor) -> dict[str, Tensor]:
        """A boolean row [size] as masks."""
        parts = {self.weight: row[: self.shape.numel()].view(self.shape)}
        return parts | {self.bias: row[self.shape.numel() :]} if self.bias else parts


def _layers(model: nn.Module) -> list[_Layer]:
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    found: list[_Layer] = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and id(module.weight) in names:
            weight = names.pop(id(module.weight))  # a tied weight counts once
            found.append(_Layer(name, weight, names.pop(id(module.bias), None), module.weight.shape))
    return found


def _strongest(layer: _Layer, strength: Tensor, count: int, generator: torch.Generator) -> Tensor:
    whole, rest = divmod(count, layer.size // layer.units)
    order = strength.argsort(descending=True, stable=True)
    row = layer.of_units(order[:whole])
    if rest:
        drawn = torch.randperm(layer.incoming, generator=generator)[:rest]
        row[int(order[whole]) * layer.incoming + drawn] = True
    return row


def _threshold(layer: _Layer, strength: Tensor, count: int, generator: torch.Generator) -> Tensor:
    steps = 0
    pool = layer.of_units(strength > _FIRST_THRESHOLD)
    while int(pool.sum()) < count:  # below 0, all units are above it
        steps += 1
        pool = layer.of_units(strength > _FIRST_THRESHOLD - _THRESHOLD_STEP * steps)
    places = pool.nonzero().flatten()
    row = torch.zeros_like(pool)
    row[places[torch.randperm(len(places), generator=generator)[:count]]] = True
    return row


def _strengths(model: nn.Module, loss: Loss, data: Any, gradients: bool) -> dict[str, Tensor]:
    """Layer name -> absolute mean of each unit's output, or of its derivative, float64 [units]."""
    model = private(model)  # hooks go nowhere
    totals: dict[str, Tensor] = {}
    places: dict[str, int] = {}

    def note(name: str, unit: int, values: Tensor) -> None:
        other = [d for d in range(values.dim()) if d != unit % values.dim()]
        total = values.detach().double().sum(other).cpu() if other else values.detach().double().cpu()
        totals[name] = totals.get(name, 0) + total
        places[name] = places.get(name, 0) + values.numel() // values.shape[unit]

    def hook(name: str, unit: int) -> Any:
        def seen(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            if not gradients:
                note(name, unit, output)  # at once: a later layer may work in place
            elif output.requires_grad:
                output.register_hook(lambda derivative: note(name, unit, derivative))

        return seen

    modules = dict(model.named_modules())
    for layer in _layers(model):
        unit = -1 if isinstance(modules[layer.name], nn.Linear) else 1
        modules[layer.name].register_forward_hook(hook(layer.name, unit))
    trainable = [p for p in model.parameters() if p.requires_grad]
    samples = Samples(data, None, trainable[0].device, trainable[0].dtype)
    with torch.inference_mode(False), torch.set_grad_enabled(gradients), plain_attention():
        for ids in id_batches(len(samples), OUTPUT_MATRICES):
            inputs, labels = samples.batch(ids)
            total = loss(model(inputs), labels).sum()
            if gradients:
                torch.autograd.grad(total, trainable, allow_unused=True)
    found = {name: (total / places[name]).abs() for name, total in totals.items()}
    for name, strength in found.items():
        if not bool(strength.isfinite().all()):
            raise InvalidInput(
                f"units of the layer {name!r} have outputs or gradients that are NaN or infinite on the images to be "
                "removed: look at these images, or use selector='random'"
            )
    return found
