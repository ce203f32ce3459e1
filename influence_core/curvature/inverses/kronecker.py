"""The inverse of a Kronecker-factored curvature: applied to vectors, and as a metric for per-sample gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from influence_core.curvature.inverses.base import InverseCurvature, Solved, check_damping
from influence_core.curvature.kfac import KFAC
from influence_core.curvature.kronecker import Layer
from influence_core.curvature.outputs import Draw
from influence_core.curvature.rotation import Rotation, times
from influence_core.curvature.vectors import Vectors
from influence_core.gradients import Block, Data, SweepContext
from influence_core.losses import Loss

ROUNDING = 1e-10
"""An eigenvalue so much smaller than its layer's largest may be rounding of a zero, in a model in float32."""


@dataclass(frozen=True)
class KroneckerInverse(InverseCurvature):
    """``Q_S [(Q_S' V Q_A) * inverse] Q_A'`` for every layer, a division for the rest.

    Without weight decay and damping, an eigenvalue that is zero to rounding is inverted to zero: no training image has
    a gradient in that direction.

    Attributes:
        layers: the layers with Kronecker blocks.
        rotations: weight name -> (Q_S, Q_A).
        inverse: weight name -> ``[G, C/G, K']``.
        diagonal: parameter name -> inverse of the diagonal outside the layers.
        damping: parameter name (the weight's for a layer) -> what was added beside weight decay.
        weight_decay: lambda.
    """

    name: ClassVar[str] = "ekfac"
    preconditions: ClassVar[bool] = True
    has_metric: ClassVar[bool] = True
    has_root: ClassVar[bool] = True

    layers: tuple[Layer, ...]
    rotations: Mapping[str, tuple[Tensor, Tensor]]
    inverse: Mapping[str, Tensor]
    diagonal: Mapping[str, Tensor]
    damping: Mapping[str, float] = field(default_factory=dict)
    weight_decay: float = 0.0

    @classmethod
    def fit(
        cls,
        model: nn.Module,
        loss: Loss,
        data: Data,
        *,
        damping: float = 0.1,
        weight_decay: float = 0.0,
        labels: Draw = "sampled",
        corrected: bool = True,
        seed: int = 0,
    ) -> Self:
        """Fit the factors and invert.

        Args:
            model: in eval mode.
            loss: one loss per sample.
            data: N samples.
            damping: relative to the mean eigenvalue of each layer.
            weight_decay: lambda, added to every eigenvalue.
            labels: see ``KFAC.fit``.
            corrected: EK-FAC's eigenvalues; else K-FAC's.
            seed: of drawn labels.

        Returns:
            The inverse.
        """
        kfac = KFAC.fit(model, loss, data, draw=labels, seed=seed)
        return cls.of(kfac, damping, weight_decay=weight_decay, corrected=corrected)

    @classmethod
    def of(cls, kfac: KFAC, damping: float = 0.1, *, weight_decay: float = 0.0, corrected: bool = True) -> Self:
        r"""The inverse of fitted factors plus weight decay and damping; another damping never fits again.

        Args:
            kfac: the factors.
            damping: relative to the mean eigenvalue of each layer (Grosse et al. 2023: 0.1).
            weight_decay: :math:`\lambda`, added to every eigenvalue.
            corrected: EK-FAC's eigenvalues; else K-FAC's.

        Returns:
            The inverse.
        """
        check_damping(damping, weight_decay)
        values = {name: basis.corrected if corrected else basis.kfac for name, basis in kfac.bases.items()}
        rotations = {name: (basis.outputs, basis.inputs) for name, basis in kfac.bases.items()}
        return cls.damped(kfac.layers, rotations, values, kfac.diagonal, damping, weight_decay)

    @classmethod
    def damped(
        cls,
        layers: Sequence[Layer],
        rotations: Mapping[str, tuple[Tensor, Tensor]],
        eigenvalues: Mapping[str, Tensor],
        diagonal: Mapping[str, Tensor],
        damping: float,
        weight_decay: float,
    ) -> Self:
        """Invert; ``damping`` is relative to the mean of each layer's (or other parameter's) eigenvalues."""
        added = {name: damping * float(values.mean()) for name, values in {**eigenvalues, **diagonal}.items()}
        inverse = {name: inverted(v, added[name] + weight_decay, ROUNDING) for name, v in eigenvalues.items()}
        outside = {name: inverted(v, added[name] + weight_decay, 0.0) for name, v in diagonal.items()}
        turned = {name: (q_s.contiguous(), q_a.contiguous()) for name, (q_s, q_a) in rotations.items()}
        return cls(tuple(layers), turned, inverse, outside, added, weight_decay)

    @property
    def kronecker_share(self) -> float:
        """Share of the parameters that is in Kronecker blocks."""
        inside, outside = (sum(v.numel() for v in some.values()) for some in (self.inverse, self.diagonal))
        return inside / (inside + outside)

    def facts(self) -> dict[str, Any]:
        """Damping of each layer, weight decay, and the share of the parameters in Kronecker blocks."""
        return {
            "damping": dict(self.damping),
            "weight_decay": self.weight_decay,
            "kronecker_share": self.kronecker_share,
        }

    def apply(self, vectors: Mapping[str, Tensor]) -> Solved:
        """Rotate into the eigenbasis, divide, and rotate back."""
        found: Vectors = {}
        for layer in self.layers:
            matrices = layer.matrices(vectors)
            q_s, q_a = (q.to(matrices) for q in self.rotations[layer.weight])
            rotated = q_s.transpose(1, 2) @ times(matrices, q_a)
            rotated *= self.inverse[layer.weight].to(matrices)
            found |= layer.vectors(times(q_s @ rotated, q_a.transpose(1, 2)))
        for name, inverse in self.diagonal.items():
            found[name] = vectors[name] * inverse.to(vectors[name])
        return Solved({name: found[name] for name in vectors})

    def root(self) -> KroneckerInverse:
        """The symmetric square root: applied to standard normal vectors it gives draws with this covariance.

        Unlike the rotated root ``Q_S [V * sqrt(inverse)] Q_A'``, which has the same law, it does not depend on the
        signs of eigenvectors and on the basis of an eigenspace: equal vectors give equal draws.

        Returns:
            The root.
        """
        inverse = {name: values.sqrt() for name, values in self.inverse.items()}
        return replace(self, inverse=inverse, diagonal={name: v.sqrt() for name, v in self.diagonal.items()})

    def metric(self) -> KroneckerNorms:
        """For ``squared_norms(model, loss, data, metric)``: ``g' H^-1 g`` of every sample."""
        return KroneckerNorms(self)


class KroneckerNorms:
    """``g_n' H^-1 g_n``, block by block."""

    def __init__(self, inverse: KroneckerInverse) -> None:
        """Take the inverse."""
        self._inverse = inverse

    def start(self, context: SweepContext) -> None:
        """Bring the factors to the gradients' device and type.

        Raises:
            ValueError: The sweep's parameters are not those of the fit.
        """
        names = {name for layer in self._inverse.layers for name in layer.names} | set(self._inverse.diagonal)
        if names != set(context.shapes):
            raise ValueError(f"the inverse is of {sorted(names)}, the sweep of {sorted(context.shapes)}")

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(context.device, context.dtype)

        self._layers: list[tuple[Rotation, Tensor]] = []
        for layer in self._inverse.layers:
            q_s, q_a = self._inverse.rotations[layer.weight]
            self._layers.append((Rotation(layer, moved(q_a), moved(q_s)), moved(self._inverse.inverse[layer.weight])))
        self._diagonal = {name: moved(values) for name, values in self._inverse.diagonal.items()}

    def squared_norms(self, block: Block) -> Tensor:
        """The block's share, ``[B]``."""
        total: Tensor | None = None
        for rotation, inverse in self._layers:
            part = rotation.weighted_squared_norms(block, inverse)
            if part is not None:
                total = part if total is None else total + part
        for name in set(block) & set(self._diagonal):
            part = block[name].weighted_squared_norms(self._diagonal[name])
            total = part if total is None else total + part
        assert total is not None, "every parameter is in a layer or on the diagonal"
        return total


def inverted(values: Tensor, shift: float, rounding: float) -> Tensor:
    """Eigenvalues of the inverse.

    Args:
        values: eigenvalues.
        shift: what is added to them.
        rounding: without a shift, values up to so much of the largest are zero and stay zero.

    Returns:
        ``1 / (values + shift)``.
    """
    if shift > 0:
        return 1.0 / (values + shift)
    kept = values > rounding * values.max()
    return torch.where(kept, 1.0 / torch.where(kept, values, 1.0), 0.0)
