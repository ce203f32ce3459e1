r"""K-FAC and EK-FAC: the Fisher matrix as Kronecker blocks, one per layer (and group), and a diagonal for the rest.

A layer's per-sample gradient is :math:`G_n = \sum_t \delta_{nt}\tilde a_{nt}^\top` over positions t (and uses). With

.. math:: A = \tfrac1N\sum_{n,t}\tilde a\tilde a^\top = Q_A\Lambda_A Q_A^\top, \quad
          S = \tfrac1{NT}\sum_{n,t}\delta\delta^\top = Q_S\Lambda_S Q_S^\top,

K-FAC takes :math:`S\otimes A` for the layer's Fisher block (Martens and Grosse 2015; for convolutions Grosse and
Martens 2016). EK-FAC keeps the eigenbasis and takes the second moments of the gradients in it,
:math:`\Lambda_{ij} = \frac1N\sum_n (Q_S^\top G_n Q_A)_{ij}^2` (George et al. 2018): the best diagonal there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from influence_core.curvature.kronecker import Layer, factors, find_layers
from influence_core.curvature.outputs import Draw, at_outputs, linear_loss
from influence_core.curvature.rotation import Rotation
from influence_core.errors import InvalidInput
from influence_core.gradients import Block, Choice, Data, SweepContext, select, sweep
from influence_core.losses import Loss


@dataclass(frozen=True)
class Eigenbasis:
    """One layer's factors in their eigenbasis.

    Attributes:
        inputs: Q_A, eigenvectors in columns, ``[G, K', K']``.
        outputs: Q_S, eigenvectors in columns, ``[G, C/G, C/G]``.
        kfac: K-FAC's eigenvalues, ``[G, C/G, K']``.
        corrected: EK-FAC's, likewise.
    """

    inputs: Tensor
    outputs: Tensor
    kfac: Tensor
    corrected: Tensor


@dataclass(frozen=True)
class KFAC:
    """A fitted K-FAC and EK-FAC. ``KroneckerInverse.of`` inverts it: another damping never fits again.

    Attributes:
        layers: the layers with Kronecker blocks.
        bases: weight name -> its eigenbasis.
        diagonal: parameter name -> diagonal of the Fisher matrix, for parameters outside these layers: scales and
            shifts of norms, embeddings, and what has no layer rule. Nothing is left out.
    """

    layers: tuple[Layer, ...]
    bases: Mapping[str, Eigenbasis]
    diagonal: Mapping[str, Tensor]

    @classmethod
    def fit(
        cls,
        model: nn.Module,
        loss: Loss,
        data: Data,
        *,
        draw: Draw = "sampled",
        seed: int = 0,
        parameters: Choice = None,
        **options: Any,
    ) -> KFAC:
        """Two sweeps: one for the factors, one for the eigenvalues in their eigenbasis.

        Args:
            model: in eval mode; it is only read.
            loss: one loss per sample.
            data: N samples.
            draw: ``sampled`` draws every label once from the model (the true Fisher matrix, estimated); ``exact`` takes
                the expectation, at K times the cost; ``empirical`` takes the given labels.
            seed: of the labels; they depend neither on batches nor on each other.
            parameters: which parameters.
            **options: of ``influence_core.gradients.sweep``.

        Returns:
            The factors.

        Raises:
            InvalidInput: If a factor holds NaN or infinity (the layer is named), or a mask is given.
        """
        selection = select(model, parameters)
        if selection.masks:
            raise InvalidInput(f"K-FAC takes whole layers, but {next(iter(selection.masks))!r} has a mask")
        drawn = at_outputs(model, loss, data, draw, seed)
        moments = _Factors(find_layers(model, selection), padded=bool(getattr(data, "pads", False)))
        for weights in drawn:
            sweep(model, linear_loss, data, [moments], labels=weights, parameters=selection, **options)
        layers = tuple(moments.layers())
        eigen = {layer.weight: moments.eigenbasis(layer) for layer in layers}
        inside = {name for layer in layers for name in layer.names}
        squares = _Squares({layer: eigen[layer.weight] for layer in layers}, set(selection.parameters) - inside)
        for weights in drawn:
            sweep(model, linear_loss, data, [squares], labels=weights, parameters=selection, **options)
        bases = {
            layer.weight: Eigenbasis(*eigen[layer.weight], corrected=squares.eigenvalues(layer)) for layer in layers
        }
        return cls(layers, bases, squares.diagonal())

    def dense(self, weight: str, *, corrected: bool = True) -> Tensor:
        """A layer's block as a matrix, for small layers and for tests.

        Args:
            weight: name of the weight.
            corrected: EK-FAC's; else K-FAC's.

        Returns:
            ``[G, (C/G) K', (C/G) K']``, rows running through C, then K'.
        """
        basis = self.bases[weight]
        vectors = torch.einsum("gci,gkj->gckij", basis.outputs, basis.inputs).flatten(1, 2).flatten(2)
        values = (basis.corrected if corrected else basis.kfac).flatten(1)
        return (vectors * values[:, None, :]) @ vectors.transpose(1, 2)


@dataclass
class _Factors:
    """Consumer: A and S of every layer, added up in float64 over any number of sweeps.

    In data that pad, positions through which no gradient comes back are left out: how many there are depends on the
    batch.
    """

    candidates: list[Layer]
    padded: bool = False
    _inputs: dict[str, Tensor] = field(default_factory=dict)
    _outputs: dict[str, Tensor] = field(default_factory=dict)
    _positions: dict[str, float] = field(default_factory=dict)
    _unfactored: set[str] = field(default_factory=set)
    _sweeps: int = 0

    def start(self, context: SweepContext) -> None:
        """Make room."""
        self._context = context
        self._sweeps += 1
        for layer in self.candidates:
            zeros = torch.zeros(layer.groups, layer.width, layer.width, dtype=torch.float64, device=context.device)
            self._inputs.setdefault(layer.weight, zeros)
            zeros = torch.zeros(layer.groups, layer.height, layer.height, dtype=torch.float64, device=context.device)
            self._outputs.setdefault(layer.weight, zeros)
            self._positions.setdefault(layer.weight, 0.0)

    def consume(self, block: Block) -> None:
        """Add up."""
        for layer in self.candidates:
            if layer.weight not in block or layer.weight in self._unfactored:
                continue
            pieces = factors(block[layer.weight].form, layer.groups)
            if pieces is None or (layer.bias is not None and layer.bias not in block):
                self._unfactored.add(layer.weight)
                continue
            for outputs, inputs in pieces:
                used = self._used(outputs)
                self._positions[layer.weight] += (
                    outputs[0].shape[0] * outputs[0].shape[1] if used is None else len(used)
                )
                for g, (d, a) in enumerate(zip(outputs, inputs, strict=True)):
                    a, d = a.flatten(0, 1), d.flatten(0, 1)
                    if used is not None:
                        a, d = a[used], d[used]
                    total, inner = self._inputs[layer.weight][g], a.shape[1]
                    total[:inner, :inner] += a.T @ a
                    if layer.bias is not None:  # the column of ones, without writing it
                        total[inner, :inner] += a.sum(0)
                        total[inner, inner] += len(a)
                    self._outputs[layer.weight][g] += d.T @ d

    def _used(self, outputs: Sequence[Tensor]) -> Tensor | None:
        """Which positions count, of all samples one after the other; all where it is None."""
        if not self.padded:
            return None
        alive = torch.stack([d.flatten(0, 1).any(1) for d in outputs]).any(0)
        return alive.nonzero().flatten()

    def finish(self) -> None:
        """Nothing left to do."""

    def layers(self) -> list[Layer]:
        """The layers that turned out to factorise."""
        return [layer for layer in self.candidates if layer.weight not in self._unfactored]

    def eigenbasis(self, layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
        """A layer's eigenbasis, float64.

        Args:
            layer: which.

        Returns:
            Q_A, Q_S and K-FAC's eigenvalues.

        Raises:
            InvalidInput: If a factor is not finite, or has no eigendecomposition; the layer is named.
        """
        # Several sweeps share the inputs (their mean) and add up at the outputs (their sum is the loss Hessian).
        a = self._inputs[layer.weight] / (self._context.samples * self._sweeps)
        if layer.bias is not None:
            a[:, :-1, -1] = a[:, -1, :-1]
        own = layer.columns().argsort().to(a.device)
        a = a[:, own][:, :, own]
        s = self._outputs[layer.weight] * (self._sweeps / max(self._positions[layer.weight], 1.0))
        found = []
        for side, matrix in (("inputs", a), ("output gradients", s)):
            if not bool(torch.isfinite(matrix).all()):
                raise InvalidInput(
                    f"the second moments of the {side} of layer {layer.path!r} hold NaN or infinity: look for extreme "
                    "inputs or weights, or score in float64"
                )
            try:
                found.append(torch.linalg.eigh((matrix + matrix.transpose(1, 2)) / 2))
            except RuntimeError as error:
                raise InvalidInput(
                    f"the second moments of the {side} of layer {layer.path!r} have no eigendecomposition: {error}"
                ) from error
        (values_a, q_a), (values_s, q_s) = found
        return q_a, q_s, values_s.clamp_min(0)[:, :, None] * values_a.clamp_min(0)[:, None, :]


class _Squares:
    """Consumer: mean squares of gradients, in the eigenbasis inside layers and entry by entry outside."""

    def __init__(self, bases: Mapping[Layer, tuple[Tensor, Tensor, Tensor]], outside: set[str]) -> None:
        self._bases, self._outside = dict(bases), outside
        self._sums: dict[str, Tensor] = {}
        self._plain: dict[str, Tensor] = {}

    def start(self, context: SweepContext) -> None:
        """Make room."""
        self._samples = context.samples
        self._rotations = {
            layer: Rotation(layer, q_a.to(context.dtype), q_s.to(context.dtype))
            for layer, (q_a, q_s, _) in self._bases.items()
        }
        for layer, (_, _, values) in self._bases.items():
            self._sums.setdefault(layer.weight, torch.zeros_like(values))
        for name in context.shapes:
            if name in self._outside:
                zeros = torch.zeros(context.shapes[name], dtype=torch.float64, device=context.device)
                self._plain.setdefault(name, zeros)

    def consume(self, block: Block) -> None:
        """Add up."""
        for layer, rotation in self._rotations.items():
            squares = rotation.sum_of_squares(block)
            if squares is not None:
                self._sums[layer.weight] += squares
        for name in self._outside & set(block):
            self._plain[name] += block[name].total_of_squares()

    def finish(self) -> None:
        """Nothing left to do."""

    def eigenvalues(self, layer: Layer) -> Tensor:
        """Lambda, float64."""
        return self._sums[layer.weight] / self._samples

    def diagonal(self) -> dict[str, Tensor]:
        """The diagonal outside, float64."""
        return {name: total / self._samples for name, total in self._plain.items()}
