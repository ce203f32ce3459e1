"""Metrics in which gradients are measured: what ``SquaredNorms`` adds up, block by block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from influence_core.gradients.block import Block, SampleGradients, SweepContext


class Metric(Protocol):
    """A positive quadratic form that is block-diagonal over layers."""

    def start(self, context: SweepContext) -> None:
        """Check against the parameters of the sweep; raise ValueError with names if they do not fit."""

    def squared_norms(self, block: Block) -> Tensor:
        """The block's share of ``g_n' W g_n``, ``[B]``."""
        ...


class EuclideanMetric:
    """``sum g^2``."""

    def start(self, context: SweepContext) -> None:
        """Fits everything."""

    def squared_norms(self, block: Block) -> Tensor:
        """Sum over parameters."""
        return torch.stack([gradients.squared_norms() for gradients in block.values()]).sum(0)


class DiagonalMetric:
    """``sum w g^2`` for one weight per parameter entry."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """Take name -> weights of the parameter's shape."""
        self._weights = dict(weights)

    def start(self, context: SweepContext) -> None:
        """Expect weights of the right shape for every parameter of the sweep.

        Raises:
            ValueError: A parameter has no weights, or weights of another shape.
        """
        for name, shape in context.shapes.items():
            if name not in self._weights:
                raise ValueError(f"the diagonal metric has no weights for {name!r}; give a tensor {shape}")
            found = tuple(self._weights[name].shape)
            if found != tuple(shape):
                raise ValueError(f"the diagonal metric's weights of {name!r} have shape {found}, expected {shape}")
        self._weights = {name: w.detach().to(context.device, context.dtype) for name, w in self._weights.items()}

    def squared_norms(self, block: Block) -> Tensor:
        """Sum over parameters."""
        parts = [gradients.weighted_squared_norms(self._weights[name]) for name, gradients in block.items()]
        return torch.stack(parts).sum(0)


@dataclass(frozen=True)
class KroneckerFactors:
    """An eigenbasis of one layer's curvature.

    With the gradient as a matrix G ``[C, K]``, rows for outputs and columns for inputs x kernel in the parameter's own
    order, and the bias as column K + 1 where there is one.

    Attributes:
        inputs: Q_A, eigenvectors in columns, ``[K', K']``, K' = K or K + 1.
        outputs: Q_S, eigenvectors in columns, ``[C, C]``.
        inverse_eigenvalues: ``[C, K']``: what the squares of ``Q_S' G Q_A`` are multiplied by.
        bias: Name of the bias that is the last column, or None.
    """

    inputs: Tensor
    outputs: Tensor
    inverse_eigenvalues: Tensor
    bias: str | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> KroneckerFactors:
        """The same on another device, in another type."""
        moved = (t.detach().to(device, dtype) for t in (self.inputs, self.outputs, self.inverse_eigenvalues))
        inputs, outputs, inverse_eigenvalues = moved
        return KroneckerFactors(inputs, outputs, inverse_eigenvalues, self.bias)


class KroneckerMetric:
    """``sum over layers, i, j of L_ij (Q_S' G Q_A)_ij^2``: the inverse of an EK-FAC curvature."""

    def __init__(self, layers: Mapping[str, KroneckerFactors]) -> None:
        """Take, by name of the layer's weight, its factors. Parameters of no layer count nothing."""
        self._layers = dict(layers)

    def start(self, context: SweepContext) -> None:
        """Check the factors' shapes, and that a layer's weight and bias arrive together.

        Raises:
            ValueError: A layer is not in the sweep, a factor has another shape, or weight and bias come separately.
        """
        for name, factors in self._layers.items():
            for needed in (name, factors.bias):
                if needed is not None and needed not in context.shapes:
                    raise ValueError(f"the Kronecker metric wants {needed!r}, which the sweep does not choose")
            if factors.bias and not any({name, factors.bias} <= set(block) for block in context.blocks):
                raise ValueError(
                    f"{name!r} and {factors.bias!r} do not arrive together, so they cannot share a Kronecker block; "
                    "give the layer's metric without the bias"
                )
            height, width = context.shapes[name][0], _width(context.shapes[name]) + bool(factors.bias)
            expected = {"inputs": (width, width), "outputs": (height, height), "inverse_eigenvalues": (height, width)}
            for field, shape in expected.items():
                found = tuple(getattr(factors, field).shape)
                if found != shape:
                    raise ValueError(f"the Kronecker metric's {field} of {name!r} has shape {found}, expected {shape}")
        self._layers = {name: factors.to(context.device, context.dtype) for name, factors in self._layers.items()}

    def squared_norms(self, block: Block) -> Tensor:
        """Rotate, square, weigh."""
        parts = [
            _rotated_norms(block[name], block.get(factors.bias) if factors.bias else None, factors)
            for name, factors in self._layers.items()
            if name in block
        ]
        batch = next(iter(block.values())).batch
        any_layer = next(iter(self._layers.values())).outputs
        return torch.stack(parts).sum(0) if parts else any_layer.new_zeros(batch)


def _width(shape: tuple[int, ...]) -> int:
    width = 1
    for size in shape[1:]:
        width *= size
    return width


def _rotated_norms(weight: SampleGradients, bias: SampleGradients | None, factors: KroneckerFactors) -> Tensor:
    norms = []
    extra = None if bias is None else torch.cat([rows for _, rows in bias.chunks()])
    for some, rows in weight.chunks():
        matrices = weight.layout.unflatten(rows).reshape(len(rows), weight.layout.shape[0], -1)
        if factors.bias:
            column = matrices.new_zeros(*matrices.shape[:2]) if extra is None else extra[some]
            matrices = torch.cat([matrices, column[:, :, None]], dim=2)
        rotated = torch.matmul(factors.outputs.T, matrices @ factors.inputs)
        norms.append((rotated.square_() * factors.inverse_eigenvalues).sum((1, 2)))
    return torch.cat(norms)
