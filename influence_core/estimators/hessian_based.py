"""What all methods with an inverse curvature share: one solve for each query, then one sweep over the training data."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from influence_core.curvature import Vectors
from influence_core.errors import InvalidInput
from influence_core.estimators.base import Estimator
from influence_core.gradients import inner_products, mean_gradient, per_sample_gradients
from influence_core.progress import track
from influence_core.scores import Scale

SOLVE_BYTES = 64 * 2**20
"""Right-hand sides of about this size are solved for together."""


@dataclass
class HessianBased(Estimator):
    r"""Influence functions (Koh and Liang 2017, eq. 2, with the sign turned so that positive is helpful).

    Removing the training image k from the mean loss, :math:`\frac1N\sum_n\ell_n + \frac\lambda2\lVert\theta\rVert^2`,
    moves the minimum to first order by

    .. math:: \Delta\theta = \tfrac1N H^{-1} \nabla\ell_k,

    and the loss of a test image v by :math:`h(k, v) = \frac1N \nabla\ell_v^\top H^{-1}\nabla\ell_k`, in nats for
    cross-entropy. For a set of images both are sums. 1/N stays 1/N: the other images' weights do not change.

    A subclass says what ``H^{-1}`` is: it overrides ``_solve``, and ``_self_influence`` where that is cheap.
    """

    scales: ClassVar[dict[str, Scale]] = {"influence": "nats", "self_influence": "nats"}
    reasons: ClassVar[dict[str, str]] = {"label_influence": "it explains the labels that were trained on"}
    solve_bytes: ClassVar[int] = SOLVE_BYTES

    @abstractmethod
    def _solve(self, vectors: Vectors) -> Vectors:
        """``H^{-1}`` times stacked vectors, parameter name -> ``[R, *shape]``."""

    def _model(self) -> nn.Module:
        """The model whose gradients are taken."""
        return self.study_.model

    def _samples(self, split: str, ids: Tensor | None = None) -> Any:
        """The data that it takes."""
        data = self.study_.split(split)
        return data if ids is None else data.subset(ids)

    def _influence(self, test_ids: Tensor) -> Tensor:
        solved = self._solved("test", test_ids, f"{self.title}: solving for test images")
        return self._products(solved)

    def _against_validation(self) -> Tensor:
        """Minus the influence on the mean validation loss, [N]: large for images that harm it."""
        gradient = mean_gradient(self._model(), self.study_.loss, self._samples("validation"))
        return -self._products(self._solve({name: g[None] for name, g in gradient.items()}))[:, 0]

    def _self_by_solving(self) -> Tensor:
        """Self-influence with one solve for each training image, in blocks."""
        parts = []
        for gradients, solved in self._blocks(
            "train", torch.arange(len(self.study_.train)), f"{self.title}: self-influence"
        ):
            parts.append(torch.stack([(g * solved[name]).flatten(1).sum(1) for name, g in gradients.items()]).sum(0))
        return torch.cat(parts) / len(self.study_.train)

    def _parameter_change(self, train_ids: Tensor) -> dict[str, Tensor]:
        gradient = mean_gradient(self._model(), self.study_.loss, self._samples("train", train_ids))
        share = len(train_ids) / len(self.study_.train)
        solved = self._solve({name: share * g[None] for name, g in gradient.items()})
        return {name: change[0] for name, change in solved.items()}

    def _products(self, solved: Mapping[str, Tensor]) -> Tensor:
        """Inner products of all training gradients with solved queries, over N: ``[N, M]``."""
        products = inner_products(self._model(), self.study_.loss, self._samples("train"), solved)
        return products / len(self.study_.train)

    def _solved(self, split: str, ids: Tensor, what: str) -> Vectors:
        parts = [solved for _, solved in self._blocks(split, ids, what)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _blocks(self, split: str, ids: Tensor, what: str) -> Iterator[tuple[Vectors, Vectors]]:
        """Gradients of some samples, and the same solved, a block at a time."""
        parameters = [p for p in self._model().parameters() if p.requires_grad]
        row = sum(p.numel() * p.element_size() for p in parameters)
        for some in track(list(ids.split(max(1, self.solve_bytes // row))), what):
            gradients = per_sample_gradients(self._model(), self.study_.loss, self._samples(split, some))
            yield gradients, self._solve(gradients)


def check_damping(damping: float) -> None:
    """Refuse a damping that is no finite number of 0 or more.

    Args:
        damping: relative.

    Raises:
        InvalidInput: if it is negative, infinite or NaN.
    """
    if not 0 <= damping < math.inf:
        raise InvalidInput(f"damping is {damping}; it is a multiple of the mean curvature, so 0 or more")
