"""What all methods share that move the weights and watch the losses: GEX, GEXLinear and Laplace."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from influence_core.errors import InvalidInput
from influence_core.estimators.base import WEAK_INFLUENCE, Estimator
from influence_core.estimators.work import NUMBER, Work
from influence_core.study import Study


@dataclass
class LossChanges(Estimator):
    r"""Products of changes of losses, over M points :math:`\theta_m` around the trained weights.

    .. math:: h(z, z') = \frac1M\sum_m \Delta_m(z)\,\Delta_m(z'), \qquad s(z) = \frac1M\sum_m \Delta_m(z)^2 .

    The paper's Algorithms 1 and 2 leave out 1/M, which makes scores of different M incomparable.

    A subclass overrides ``_changes``.

    Args:
        detect_by: what mislabel scores are: "self" for the self-influence, or "validation" for minus the influence on
            the mean loss of the validation set.
    """

    reasons: ClassVar[dict[str, str]] = {"label_influence": "it watches the losses of the given labels"}
    by_rows: ClassVar[frozenset[str]] = frozenset({"influence", "self_influence", "mislabel_scores"})
    evidence: ClassVar[dict[str, str]] = WEAK_INFLUENCE
    learned: ClassVar[tuple[str, ...]] = ("changes_",)

    detect_by: Literal["self", "validation"] = field(default="self", kw_only=True)

    def _fit(self, study: Study) -> None:
        splits = ["train", "test"]
        if self.detect_by == "validation":
            study.split("validation")  # refuses a study without
            splits.append("validation")
        self.changes_ = self._changes(study, splits)

    def _needed(self, what: str | None) -> frozenset[str]:
        return super()._needed(what) | ({"validation"} if self.detect_by == "validation" else set())

    def _watched(self, study: Study) -> int:
        """Number of images whose losses are watched."""
        validation = len(study.split("validation")) if self.detect_by == "validation" else 0
        return len(study.train) + len(study.test) + validation

    def _disk(self, study: Study) -> float:
        return float(
            NUMBER * (len(study.train) + len(study.test)) * int(getattr(self, "members", getattr(self, "samples", 1)))
        )

    def _call_work(self, study: Study, what: str, tests: int) -> Work:
        return Work()  # all is done in fit

    @abstractmethod
    def _changes(self, study: Study, splits: list[str]) -> dict[str, Tensor]:
        r"""The changes of the losses of some datasets.

        Args:
            study: the study.
            splits: names of datasets.

        Returns:
            Name -> :math:`\Delta`, [n, M] on the CPU; for the validation set the change of its mean loss, [1, M].
        """

    def _influence(self, test_ids: Tensor) -> Tensor:
        return self._products(self.changes_["test"][test_ids])

    def _self_influence(self) -> Tensor:
        return self._of_scored(self.changes_["train"]).square().mean(1)

    def _mislabel_scores(self) -> Tensor:
        if self.detect_by == "validation":
            return -self._products(self.changes_["validation"])[:, 0]
        return self._self_influence()

    def _products(self, changes: Tensor) -> Tensor:
        return (self._of_scored(self.changes_["train"]) @ changes.T).div_(changes.shape[1])


def reduced(losses: Tensor, split: str) -> Tensor:
    """What is watched of a dataset's losses.

    Args:
        losses: [n, ...].
        split: name of the dataset.

    Returns:
        The losses, or their mean [1, ...] for the validation set.
    """
    return losses.mean(0, keepdim=True) if split == "validation" else losses


def check_floor(loss_floor: float) -> None:
    """Refuse a loss floor below 0.

    Args:
        loss_floor: in nats.

    Raises:
        InvalidInput: if it is negative or NaN.
    """
    if not loss_floor >= 0:
        raise InvalidInput(f"loss_floor is {loss_floor}; it is a loss in nats, 0 or more")
