"""A control: random numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from influence_core.estimators.base import Estimator
from influence_core.estimators.work import Work
from influence_core.study import Study


@dataclass
class Random(Estimator):
    """Normal random numbers: what a score is worth that knows nothing.

    Its AUC is 0.5, and its AP the share of wrong labels, up to chance. The numbers depend on the seed and the number of
    training images alone.

    Args:
        seed: of the numbers.
    """

    name: ClassVar[str] = "random"
    title: ClassVar[str] = "Random (control)"
    paper: ClassVar[str] = "control"
    good_for: ClassVar[str] = "The floor that any score must beat"
    cost: ClassVar[str] = "none"
    reasons: ClassVar[dict[str, str]] = dict.fromkeys(
        ("influence", "self_influence", "label_influence", "parameter_change"),
        "random numbers are a control for detection alone",
    )
    by_rows: ClassVar[frozenset[str]] = frozenset({"mislabel_scores"})
    learned: ClassVar[tuple[str, ...]] = ("scores_",)
    exempt: ClassVar[dict[str, str]] = {
        "planted_wrong_labels": "it knows nothing of labels, which is its purpose",
        "depends_on_the_study": "it knows nothing of the study, which is its purpose",
        "order_of_training_images": "its numbers belong to places in the dataset",
    }

    seed: int = 0

    def _fit(self, study: Study) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self.scores_ = torch.randn(len(study.train), generator=generator, dtype=torch.float64)

    def _mislabel_scores(self) -> Tensor:
        return self._of_scored(self.scores_).clone()

    def _fit_work(self, study: Study) -> Work:
        return Work()

    def _call_work(self, study: Study, what: str, tests: int) -> Work:
        return Work()
