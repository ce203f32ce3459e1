"""An inverse curvature with mean and inverse swapped, as DataInf takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from influence_core.curvature.inverses.base import InverseCurvature, Solved, check_damping
from influence_core.errors import InvalidInput
from influence_core.gradients import Block, Consumer, Labelled, SweepContext, labelled, per_sample_gradients, sweep
from influence_core.losses import Loss
from influence_core.progress import track

PAIR_BYTES = 64 * 2**20
"""Gradients of about this size are compared with all others at once."""


@dataclass(frozen=True)
class MeanOfInverses(InverseCurvature):
    r"""The mean of the inverses of rank-one summands, tensor by tensor (Kwon et al. 2024, eq. 5).

    .. math:: H_l^{-1} v \approx \frac1{N\lambda_l}\sum_n\Big[v - \frac{g_n\cdot v}{\lambda_l + \lVert g_n\rVert^2}\,
              g_n\Big]

    Attributes:
        model: in eval mode.
        loss: one loss per sample.
        data: N samples.
        norms: parameter name -> squared norms of its gradients, [N].
        damping: parameter name -> :math:`\delta_l`.
        weight_decay: :math:`\lambda`.
    """

    name: ClassVar[str] = "datainf"
    preconditions: ClassVar[bool] = True

    model: nn.Module
    loss: Loss
    data: Labelled
    norms: Mapping[str, Tensor]
    damping: Mapping[str, float]
    weight_decay: float

    @classmethod
    def fit(
        cls, model: nn.Module, loss: Loss, data: Labelled, *, damping: float = 0.1, weight_decay: float = 0.0
    ) -> Self:
        """One sweep for the norms.

        Args:
            model: in eval mode.
            loss: one loss per sample.
            data: N samples.
            damping: relative to the mean squared entry of each tensor's gradients; above 0.
            weight_decay: lambda.

        Returns:
            The inverse.

        Raises:
            InvalidInput: if ``damping`` is not above 0.
        """
        check_damping(damping, weight_decay)
        if damping == 0:
            raise InvalidInput(f"damping is {damping}; each summand has rank one, so it must be above 0")
        data = labelled(data)
        norms = _NormsByParameter()
        sweep(model, loss, data, [norms])
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        each = {n: damping * float(v.mean(dtype=torch.float64)) / sizes[n] for n, v in norms.norms.items()}
        return cls(model, loss, data, norms.norms, each, weight_decay)

    def _shifts(self) -> dict[str, float]:
        """lambda_l; a tensor without any gradient takes no part, whatever number stands here."""
        return {name: (self.weight_decay + damping) or 1.0 for name, damping in self.damping.items()}

    def apply(self, vectors: Mapping[str, Tensor]) -> Solved:
        """One sweep for all vectors."""
        shifts = self._shifts()
        correction = _Corrections(vectors, self.norms, shifts)
        sweep(self.model, self.loss, self.data, [correction])
        size = len(self.data)
        return Solved({name: (v - correction.sums[name] / size) / shifts[name] for name, v in vectors.items()})

    def own_norms(self) -> Tensor:
        """``g' H^-1 g`` of every sample of the data, from every pair of their gradients, [N]."""
        shifts, size = self._shifts(), len(self.data)
        row = sum(p.numel() * p.element_size() for p in self.model.parameters())
        parts = []
        blocks = torch.arange(size).split(max(1, PAIR_BYTES // row))
        for ids in track(list(blocks), "DataInf: pairs of training images"):
            some = per_sample_gradients(self.model, self.loss, self.data.subset(ids))
            pairs = _SquaredProducts(some, self.norms, shifts)
            sweep(self.model, self.loss, self.data, [pairs])
            squares = {name: g.reshape(len(g), -1).square().sum(1) for name, g in some.items()}
            own = [(square - pairs.sums[name] / size) / shifts[name] for name, square in squares.items()]
            parts.append(torch.stack(own).sum(0))
        return torch.cat(parts)

    def facts(self) -> dict[str, Any]:
        """Damping of each tensor, and weight decay."""
        return {"damping": dict(self.damping), "weight_decay": self.weight_decay}


class _NormsByParameter:
    """Consumer: squared norms, parameter by parameter, ``[N]`` each."""

    def start(self, context: SweepContext) -> None:
        self.norms = {
            name: torch.zeros(context.samples, device=context.device, dtype=context.dtype) for name in context.shapes
        }

    def consume(self, block: Block) -> None:
        for name, gradients in block.items():
            self.norms[name][block.samples] = gradients.squared_norms()

    def finish(self) -> None:
        pass


class _Corrections(Consumer):
    """Consumer: ``sum_n (g_n . v) g_n / (lambda + |g_n|^2)`` for every parameter and vector."""

    def __init__(self, vectors: Mapping[str, Tensor], norms: Mapping[str, Tensor], shifts: Mapping[str, float]) -> None:
        self._vectors, self._norms, self._shifts = vectors, norms, shifts

    def start(self, context: SweepContext) -> None:
        self.sums = {name: torch.zeros_like(vector) for name, vector in self._vectors.items()}

    def consume(self, block: Block) -> None:
        for name, gradients in block.items():
            layout = gradients.layout
            vectors = layout.flatten(self._vectors[name])
            weights = 1.0 / (self._shifts[name] + self._norms[name][block.samples])
            total = torch.zeros_like(vectors)
            for some, rows in gradients.chunks():
                total += (vectors @ rows.T * weights[some]) @ rows
            self.sums[name] += layout.unflatten(total)

    def finish(self) -> None:
        pass


class _SquaredProducts(_Corrections):
    """Consumer: ``sum_n (g_n . v)^2 / (lambda + |g_n|^2)``, one number for every parameter and vector."""

    def start(self, context: SweepContext) -> None:
        self.sums = {name: vector.new_zeros(len(vector)) for name, vector in self._vectors.items()}

    def consume(self, block: Block) -> None:
        for name, gradients in block.items():
            vectors = gradients.layout.flatten(self._vectors[name])
            weights = 1.0 / (self._shifts[name] + self._norms[name][block.samples])
            for some, rows in gradients.chunks():
                self.sums[name] += (vectors @ rows.T).square() @ weights[some]
