"""Kronecker blocks: which parameters share one, and how their gradients look as matrices.

A block is one layer's weight as a C x K matrix, with the bias as column K + 1 where weight and bias belong together. A
convolution with groups is one block per group: its matrix is block-diagonal, so there is nothing between groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from influence_core.gradients import Block, Convolution, Form, Selection, Sum

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_PATCH_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Layer:
    """A layer with Kronecker blocks.

    Attributes:
        path: name of (the first of) the modules that own the weight.
        weight: name of the weight.
        bias: name of the bias that is the last column, or None.
        shape: of the weight.
        groups: G; 1 but for convolutions.
    """

    path: str
    weight: str
    bias: str | None
    shape: tuple[int, ...]
    groups: int

    @property
    def height(self) -> int:
        """Rows of a block, C / G."""
        return self.shape[0] // self.groups

    @property
    def width(self) -> int:
        """Columns of a block, the bias included."""
        return math.prod(self.shape[1:]) + (self.bias is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters in it."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def matrices(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Stacked vectors as matrices.

        Args:
            vectors: parameter name -> ``[R, *shape]``.

        Returns:
            ``[R, G, C/G, K']``.
        """
        weight = vectors[self.weight]
        matrices = weight.reshape(len(weight), self.groups, self.height, -1)
        if self.bias is None:
            return matrices
        column = vectors[self.bias].reshape(len(weight), self.groups, self.height, 1)
        return torch.cat([matrices, column], dim=3)

    def vectors(self, matrices: Tensor) -> dict[str, Tensor]:
        """The inverse of ``matrices``."""
        if self.bias is None:
            return {self.weight: matrices.reshape(len(matrices), *self.shape)}
        return {
            self.weight: matrices[..., :-1].reshape(len(matrices), *self.shape),
            self.bias: matrices[..., -1].reshape(len(matrices), -1),
        }

    def gradients(self, block: Block) -> Iterator[tuple[slice, Tensor]]:
        """A batch's gradients as matrices ``[b, G, C/G, K']``, a few samples at a time."""
        weight = block.get(self.weight)
        bias = block.get(self.bias) if self.bias else None
        column = None if bias is None else torch.cat([rows for _, rows in bias.chunks()])
        if weight is None:  # the loss sees the bias only
            if column is not None:
                vectors = {self.weight: column.new_zeros(len(column), *self.shape), self.bias or "": column}
                yield slice(0, len(column)), self.matrices(vectors)
            return
        for some, rows in weight.chunks():
            vectors = {self.weight: weight.layout.unflatten(rows)}
            if self.bias is not None:
                vectors[self.bias] = rows.new_zeros(len(rows), self.shape[0]) if column is None else column[some]
            yield some, self.matrices(vectors)

    def columns(self) -> Tensor:
        """Where the columns of ``factors`` stand in the block: a convolution's patches come with channels last."""
        inputs = math.prod(self.shape[1:])
        order = torch.arange(inputs).reshape(self.shape[1:]).movedim(0, -1).flatten()
        return order if self.bias is None else torch.cat([order, torch.tensor([inputs])])

    def without_bias(self) -> Layer:
        """The same with the bias left to others."""
        return replace(self, bias=None)


def find_layers(model: nn.Module, selection: Selection) -> list[Layer]:
    """The layers whose curvature factorises: linear ones and convolutions, each weight once.

    A weight used by several modules makes one layer, without bias, since each module adds a bias of its own.

    Args:
        model: whose parameters they are.
        selection: the parameters wanted.

    Returns:
        The layers.
    """
    names = {id(parameter): name for name, parameter in selection.parameters.items()}
    owners: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(path)
    found: dict[str, Layer] = {}
    for path, module in model.named_modules():
        weight = module._parameters.get("weight") if isinstance(module, _LAYERS) else None
        if weight is None or id(weight) not in names or names[id(weight)] in found:
            continue
        bias = module._parameters.get("bias")
        alone = bias is not None and len(owners[id(weight)]) == 1 and len(owners[id(bias)]) == 1
        bias_name = names.get(id(bias)) if alone else None
        groups = int(getattr(module, "groups", 1))
        found[names[id(weight)]] = Layer(path, names[id(weight)], bias_name, tuple(weight.shape), groups)
    return list(found.values())


def factors(form: Form, groups: int) -> Iterator[tuple[list[Tensor], list[Tensor]]] | None:
    """The gradient's two sides, group by group, a few samples at a time; uses of one weight are more positions.

    Args:
        form: the weight's gradients.
        groups: G.

    Returns:
        Pairs (output gradients, inputs) of lists over groups: ``[b, T, C/G]`` and ``[b, T, K]``, K in the order of
        ``Layer.columns``; None where the gradient is no sum of outer products.
    """
    parts: Sequence[Form] = form.parts if isinstance(form, Sum) else [form]
    if any(_grouped(part.narrow(0, 1), groups) is None for part in parts):
        return None
    numbers = sum(_numbers(part, groups) for part in parts)
    at_once = max(1, int(_PATCH_BYTES // (4 * max(1, numbers))))

    def pieces() -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        for start in range(0, form.batch, at_once):
            stop = min(start + at_once, form.batch)
            found = [_grouped(part.narrow(start, stop), groups) or [] for part in parts]
            by_group = list(zip(*found, strict=True))
            yield (
                [_joined([outputs for outputs, _ in uses]) for uses in by_group],
                [_joined([inputs for _, inputs in uses]) for uses in by_group],
            )

    return pieces()


def positions(form: Form) -> int:
    """Positions T of a form that has factors, over all uses."""
    parts: Sequence[Form] = form.parts if isinstance(form, Sum) else [form]
    return sum(int(getattr(part, "positions", 1)) for part in parts)


def _joined(uses: list[Tensor]) -> Tensor:
    return uses[0] if len(uses) == 1 else torch.cat(uses, dim=1)


def _grouped(form: Form, groups: int) -> list[tuple[Tensor, Tensor]] | None:
    if groups == 1 or not isinstance(form, Convolution):
        found = form.fast_factors() if groups == 1 else None
        return None if found is None else [found[:2]]
    alone = replace(form.geometry, groups=1)
    shape = (form.layout.shape[0] // groups, *form.layout.shape[1:])
    inputs, outputs = form.inputs.chunk(groups, dim=1), form.outputs.chunk(groups, dim=1)
    pairs = [Convolution(i, o, shape, alone).fast_factors() for i, o in zip(inputs, outputs, strict=True)]
    return [pair[:2] for pair in pairs if pair is not None]


def _numbers(form: Form, groups: int) -> float:
    """Entries of one sample's two sides."""
    shape = form.layout.shape
    return positions(form) * (shape[0] + groups * math.prod(shape[1:]))
