"""Influence along the trajectory of training: TracIn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from influence_core.errors import InvalidInput
from influence_core.estimators.base import Estimator
from influence_core.gradients import inner_products, squared_norms
from influence_core.progress import track
from influence_core.study import Study
from influence_core.training import Checkpoint


@dataclass
class TracIn(Estimator):
    r"""Sum of gradient products over checkpoints (Pruthi et al. 2020, arXiv:2002.08484, section 3.2).

    .. math:: h(z, z') = \sum_c w_c\, \nabla\ell(z', \theta_c) \cdot \nabla\ell(z, \theta_c)

    A step on a training image lowers the loss of a test image by the learning rate times this product, so positive is
    helpful without any change of sign. Self-influence is :math:`\sum_c w_c \lVert\nabla\ell(z, \theta_c)\rVert^2`.
    Expect large scores for any image with a large gradient, whichever side it is on.

    Args:
        weights: "learning_rate" for :math:`w_c = \eta_c` (TracIn's own), "equal" for :math:`w_c = 1/C` (GEX, eq. 5).
        last: how many of the last checkpoints to use; all by default.

    Example:
        >>> import influence_core as ic
        >>> scores = ic.estimators.TracIn().fit(ic.demo.digits()).influence(test=[0])
        >>> tuple(scores.values.shape)
        (1000, 1)
    """

    name: ClassVar[str] = "tracin"
    title: ClassVar[str] = "TracIn"
    paper: ClassVar[str] = "Pruthi et al. 2020"
    needs: ClassVar[frozenset[str]] = frozenset({"trajectory"})
    cost: ClassVar[str] = "C (N + M) backward"
    reasons: ClassVar[dict[str, str]] = {"label_influence": "it explains the labels that were trained on"}
    learned: ClassVar[tuple[str, ...]] = ("checkpoints_", "weights_")

    weights: Literal["learning_rate", "equal"] = "learning_rate"
    last: int | None = None

    def _check_parameters(self) -> None:
        check_weighting(self.weights, self.last)

    def _fit(self, study: Study) -> None:
        self.checkpoints_, self.weights_ = weighted_checkpoints(study, self.weights, self.last)

    def _influence(self, test_ids: Tensor) -> Tensor:
        study, chosen = self.study_, self.study_.test.subset(test_ids)
        return self._total(
            lambda model: inner_products(model, study.loss, study.train, chosen), "TracIn: gradient products"
        )

    def _self_influence(self) -> Tensor:
        study = self.study_
        return self._total(lambda model: squared_norms(model, study.loss, study.train), "TracIn: gradient norms")

    def _mislabel_scores(self) -> Tensor:
        return self._self_influence()

    def _total(self, of: Callable[[nn.Module], Tensor], what: str) -> Tensor:
        parts = []
        for weight, checkpoint in track(list(zip(self.weights_, self.checkpoints_, strict=True)), what):
            parts.append(weight * of(self.study_.at(checkpoint)))
        return torch.stack(parts).sum(0)


def check_weighting(weights: str, last: int | None) -> None:
    """Refuse hyper-parameters that ``weighted_checkpoints`` does not know.

    Args:
        weights: "learning_rate" or "equal".
        last: number of checkpoints, or ``None``.

    Raises:
        InvalidInput: if one makes no sense.
    """
    if weights not in ("learning_rate", "equal"):
        raise InvalidInput(f"weights is {weights!r}; choose 'learning_rate' or 'equal'")
    if last is not None and last < 1:
        raise InvalidInput(f"last is {last}; at least one checkpoint is needed")


def weighted_checkpoints(study: Study, weights: str, last: int | None) -> tuple[list[Checkpoint], list[float]]:
    """The checkpoints that are summed over, and their weights.

    Args:
        study: with a trajectory.
        weights: "learning_rate" for the rate at each checkpoint, "equal" for one over their number.
        last: how many of the last checkpoints; all if ``None``.

    Returns:
        Checkpoints in the order of training, and as many weights.

    Raises:
        InvalidInput: if all learning rates are zero.
    """
    checkpoints = list(study.trajectory or ())[-(last or 0) :]
    rates = [c.learning_rate for c in checkpoints]
    if weights == "learning_rate" and not any(rate > 0 for rate in rates):
        raise InvalidInput("no checkpoint has a learning rate above 0: record them, or use weights='equal'")
    return checkpoints, rates if weights == "learning_rate" else [1.0 / len(checkpoints)] * len(checkpoints)
