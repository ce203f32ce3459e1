"""An inverse curvature by division: the diagonal of a Fisher matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from influence_core.curvature.inverses.base import InverseCurvature, Solved, check_damping
from influence_core.curvature.inverses.kronecker import inverted
from influence_core.curvature.labels import label_scores, squared_norms_of_labels
from influence_core.curvature.outputs import Draw, at_outputs, linear_loss
from influence_core.errors import InvalidInput
from influence_core.gradients import Data, DiagonalMetric, Labelled, mean_squares
from influence_core.losses import Loss


@dataclass(frozen=True)
class DiagonalInverse(InverseCurvature):
    """Entry by entry, ``1 / (P + lambda + delta)`` with P the mean of squared per-sample gradients.

    Attributes:
        weights: parameter name -> the inverse, of its shape.
        damping: delta, or parameter name -> delta where it is relative to each tensor's mean.
        weight_decay: lambda.
    """

    name: ClassVar[str] = "diagonal"
    preconditions: ClassVar[bool] = True
    has_metric: ClassVar[bool] = True
    has_root: ClassVar[bool] = True

    weights: Mapping[str, Tensor]
    damping: float | Mapping[str, float] = 0.0
    weight_decay: float = field(default=0.0)

    @classmethod
    def fit(
        cls,
        model: nn.Module,
        loss: Loss,
        data: Data,
        *,
        damping: float = 1e-3,
        weight_decay: float = 0.0,
        labels: Draw = "empirical",
        relative_to: Literal["all", "tensor"] = "all",
        seed: int = 0,
    ) -> Self:
        """One sweep for the diagonal.

        Args:
            model: in eval mode.
            loss: one loss per sample.
            data: N samples.
            damping: relative to the mean of P.
            weight_decay: lambda.
            labels: "empirical" for the given labels, "sampled" for labels drawn from the model.
            relative_to: "all" for one damping, "tensor" for one for each parameter tensor.
            seed: of the drawn labels.

        Returns:
            The inverse.

        Raises:
            InvalidInput: if every gradient is zero, so that damping cannot be relative to it.
        """
        check_damping(damping, weight_decay)
        if labels == "empirical":
            fisher = mean_squares(model, loss, data)
        else:
            drawn = at_outputs(model, loss, data, labels, seed)
            parts = [mean_squares(model, linear_loss, data, labels=one) for one in drawn]
            fisher = {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}
        if relative_to == "tensor":
            each = {name: damping * float(p.mean()) for name, p in fisher.items()}
            return cls({n: inverted(p, each[n] + weight_decay, 0.0) for n, p in fisher.items()}, each, weight_decay)
        count = sum(p.numel() for p in fisher.values())
        mean = float(sum(p.sum(dtype=torch.float64) for p in fisher.values())) / count
        if mean == 0:
            raise InvalidInput(
                "every gradient of the data is zero at this model, which is certain of each image: use fewer steps of "
                "tuning, or other data"
            )
        shift = damping * mean
        weights = {name: inverted(p, shift + weight_decay, 0.0) for name, p in fisher.items()}
        return cls(weights, shift, weight_decay)

    def apply(self, vectors: Mapping[str, Tensor]) -> Solved:
        """Multiply entry by entry."""
        return Solved({name: vector * self.weights[name].to(vector) for name, vector in vectors.items()})

    def facts(self) -> dict[str, Any]:
        """Damping and weight decay."""
        damping = dict(self.damping) if isinstance(self.damping, Mapping) else self.damping
        return {"damping": damping, "weight_decay": self.weight_decay}

    def metric(self) -> DiagonalMetric:
        """``sum w g^2``."""
        return DiagonalMetric(self.weights)

    def root(self) -> DiagonalInverse:
        """Square roots, entry by entry."""
        return DiagonalInverse({name: w.sqrt() for name, w in self.weights.items()}, self.damping, self.weight_decay)

    def label_norms(self, model: nn.Module, loss: Loss, data: Labelled, labels: int, top: int | None = None) -> Tensor:
        """As for every inverse, but from one pass: the Gram matrix of a sample's outputs answers for all labels."""
        return label_scores(model, loss, data, self.weights, labels, squared_norms_of_labels, top)
