"""Norms in the metric of an inverse that only multiplies, through random vectors that are solved once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from influence_core.curvature.inverses.base import InverseCurvature
from influence_core.curvature.labels import label_slopes
from influence_core.curvature.outputs import linear_loss
from influence_core.curvature.vectors import Vectors
from influence_core.gradients import Data, Labelled, inner_products
from influence_core.losses import Loss
from influence_core.models import model_outputs
from influence_core.pieces import piece
from influence_core.progress import track


@dataclass(frozen=True)
class Probes:
    r"""R Gaussian vectors v and :math:`H^{-1} v`: the columns from which norms are estimated.

    .. math:: g^\top H^{-1} g \approx \frac1R \sum_{r=1}^R (g^\top H^{-1} v_r)(v_r^\top g)

    The mean over probes is right, but single numbers scatter by about :math:`\sqrt{2/R}` of it and can be negative.

    Attributes:
        vectors: parameter name -> ``[R, *shape]``.
        solved: the same times the inverse.
        facts: of the solve.
    """

    vectors: Vectors
    solved: Vectors
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def through(cls, inverse: InverseCurvature, model: nn.Module, count: int, seed: int) -> Self:
        """Draw and solve.

        Args:
            inverse: to multiply with.
            model: whose parameters the vectors belong to; seed and names determine them.
            count: R.
            seed: of the vectors.

        Returns:
            The probes.
        """
        drawn: Vectors = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
                generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
                normal = torch.randn(count, *parameter.shape, generator=generator, dtype=torch.float64)
                drawn[name] = normal.to(parameter)
        found = inverse.apply(drawn)
        return cls(drawn, found.vectors, dict(found.facts))

    @property
    def count(self) -> int:
        """R."""
        return len(next(iter(self.vectors.values())))

    def squared_norms(self, model: nn.Module, loss: Loss, data: Data) -> Tensor:
        """Estimates for every sample, ``[N]``, in one sweep."""
        products = inner_products(model, loss, data, self._both())
        return (products[:, : self.count] * products[:, self.count :]).mean(1)

    def label_norms(self, model: nn.Module, loss: Loss, data: Labelled, labels: int, top: int | None = None) -> Tensor:
        r"""Estimates for every label, from one sweep for each output.

        With :math:`J` the gradients of the outputs, :math:`g_k = J^\top r_k`: the products of J with probes and solved
        probes answer for every label of any loss.

        Args:
            model: in eval mode, outputs [B, O].
            loss: one loss per sample.
            data: N samples.
            labels: K.
            top: ignored; all labels cost the same.

        Returns:
            float64 [N, K].
        """
        both, count = self._both(), self.count
        outputs = model_outputs(model, data)
        along = torch.eye(outputs.shape[1], device=outputs.device, dtype=outputs.dtype)

        def at_output(row: Tensor) -> Vectors:
            return {"products": inner_products(model, linear_loss, data, both, labels=row.expand(len(data), -1))}

        numbered = enumerate(track(list(along), "influence of each label"))
        columns = [piece(f"output-{number}", partial(at_output, row))["products"] for number, row in numbered]
        products = torch.stack(columns, dim=1).to(outputs.device)
        every = torch.arange(labels, device=outputs.device).expand(len(outputs), -1)
        found = label_slopes(loss, outputs.double(), every) @ products.double()
        return (found[:, :, :count] * found[:, :, count:]).mean(2)

    def _both(self) -> Vectors:
        return {name: torch.cat([self.vectors[name], self.solved[name]]) for name in self.vectors}
