"""Influence functions with a closed-form inverse: DataInf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from influence_core.curvature import Vectors
from influence_core.errors import InvalidInput
from influence_core.estimators.hessian_based import HessianBased
from influence_core.gradients import Block, Consumer, SweepContext, per_sample_gradients, sweep
from influence_core.progress import track
from influence_core.scores import Scale
from influence_core.study import Study


@dataclass
class DataInf(HessianBased):
    r"""Influence functions with the mean of inverses for the inverse of a mean (Kwon et al. 2024, arXiv:2310.00902).

    For every parameter tensor l apart, with the training gradients :math:`g_n` of it and
    :math:`\lambda_l = \lambda + \delta_l`, Sherman and Morrison's formula inverts each summand (eq. 5):

    .. math:: H_l^{-1} v \approx \frac1N\sum_n (g_n g_n^\top + \lambda_l I)^{-1} v
              = \frac1{N\lambda_l}\sum_n\Big[v - \frac{g_n\cdot v}{\lambda_l + \lVert g_n\rVert^2}\,g_n\Big],
              \qquad h(k, v) = \tfrac1N \sum_l g_{v,l}^\top H_l^{-1} g_{k,l} .

    Positive is helpful (the authors' code has the other sign). Swapping mean and inverse is meant for small tensors,
    such as low-rank adapters; on whole networks the error is large, so the scale is that of ranks. Mislabel scores need
    a validation set: minus the influence on its mean loss. Self-influence takes every pair of training gradients.

    Args:
        damping: :math:`\delta_l` as a multiple of the mean squared entry of the tensor's gradients.
    """

    name: ClassVar[str] = "datainf"
    title: ClassVar[str] = "DataInf"
    paper: ClassVar[str] = "Kwon et al. 2024"
    cost: ClassVar[str] = "N backward; influence 2 N + M backward; self-influence N^2 inner products"
    scales: ClassVar[dict[str, Scale]] = {}
    learned: ClassVar[tuple[str, ...]] = ("damping_", "norms_")

    damping: float = 0.1

    def _check_parameters(self) -> None:
        if not self.damping > 0:
            raise InvalidInput(f"damping is {self.damping}; each summand has rank one, so it must be above 0")

    def _fit(self, study: Study) -> None:
        norms = _NormsByParameter()
        sweep(study.model, study.loss, study.train, [norms])
        self.norms_: dict[str, Tensor] = norms.norms
        sizes = {name: p.numel() for name, p in study.model.named_parameters()}
        self.damping_ = {
            name: self.damping * float(n.mean(dtype=torch.float64)) / sizes[name] for name, n in self.norms_.items()
        }

    def _shifts(self) -> dict[str, float]:
        """lambda_l; a tensor without any gradient takes no part, whatever number stands here."""
        return {name: (self.study_.weight_decay + damping) or 1.0 for name, damping in self.damping_.items()}

    def _solve(self, vectors: Vectors) -> Vectors:
        study, shifts = self.study_, self._shifts()
        correction = _Corrections(vectors, self.norms_, shifts)
        sweep(study.model, study.loss, study.train, [correction])
        return {
            name: (vector - correction.sums[name] / len(study.train)) / shifts[name] for name, vector in vectors.items()
        }

    def _self_influence(self) -> Tensor:
        study, shifts = self.study_, self._shifts()
        size, row = len(study.train), sum(p.numel() * p.element_size() for p in study.model.parameters())
        parts = []
        blocks = torch.arange(size).split(max(1, SELF_BYTES // row))
        for ids in track(list(blocks), "DataInf: pairs of training images"):
            some = per_sample_gradients(study.model, study.loss, study.train.subset(ids))
            pairs = _SquaredProducts(some, self.norms_, shifts)
            sweep(study.model, study.loss, study.train, [pairs])
            own = [(g.flatten(1).square().sum(1) - pairs.sums[name] / size) / shifts[name] for name, g in some.items()]
            parts.append(torch.stack(own).sum(0))
        return torch.cat(parts) / size

    def _mislabel_scores(self) -> Tensor:
        return self._against_validation()

    def _facts(self) -> dict[str, Any]:
        return {"damping": dict(self.damping_), "weight_decay": self.study_.weight_decay}


SELF_BYTES = 64 * 2**20
"""Gradients of about this size are compared with all others at once."""


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
