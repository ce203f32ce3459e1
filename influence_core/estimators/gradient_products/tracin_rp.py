"""TracIn through a random projection: TracInRP."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from influence_core.data import LabelledDataset
from influence_core.estimators.base import Estimator
from influence_core.estimators.gradient_products.checkpoints import check_last, used, weighted_checkpoints
from influence_core.estimators.gradient_products.projected import (
    PROJECTIONS,
    ROTATED,
    TRAINED_LABELS,
    ProjectionName,
    check_dim,
    projected_work,
)
from influence_core.estimators.gradient_products.similarity import Similarity, refuse_cosine, unit_rows
from influence_core.estimators.work import NUMBER, Work
from influence_core.gradients import project
from influence_core.pieces import piece
from influence_core.progress import track
from influence_core.study import Study
from influence_core.training import Checkpoint


@dataclass
class TracInRP(Estimator):
    r"""TracIn through one random projection Q (Pruthi et al. 2020, section 3.5; the variant of Kim et al. 2023).

    .. math:: h(z, z') = \sum_c w_c\, (Q^\top\nabla\ell(z', \theta_c)) \cdot (Q^\top\nabla\ell(z, \theta_c))

    Q is the same at every checkpoint and right on average: see ``RandProj`` for its error. With C checkpoints, C k
    features of each training image are kept. Positive is helpful, as in TracIn.

    Args:
        dim: k, the features kept of each image and checkpoint; the paper uses 20.
        weights: "equal" for :math:`w_c = 1/C` (Kim et al. 2023), "learning_rate" for :math:`w_c = \eta_c` (TracIn).
        last: how many of the last checkpoints to use; all by default.
        projection: as in ``RandProj``.
        seed: of the projection.
        similarity: "product", or "cosine" of the angle between the two gradients at each checkpoint, after projection:
            large gradients then drown no others in the rankings, and scores say how alike two images pull, not how
            hard. An image without any gradient has 0. Of itself every image has the same cosine, so that there is no
            self-influence.
    """

    name: ClassVar[str] = "tracinrp"
    title: ClassVar[str] = "TracInRP"
    paper: ClassVar[str] = "Pruthi et al. 2020 (random projections)"
    good_for: ClassVar[str] = "As good as TracIn at explaining, and answers new test images at once"
    needs: ClassVar[frozenset[str]] = frozenset({"trajectory"})
    cost: ClassVar[str] = "C N backward; a test image C backward"
    reasons: ClassVar[dict[str, str]] = TRAINED_LABELS
    exempt: ClassVar[dict[str, str]] = ROTATED
    by_rows: ClassVar[frozenset[str]] = frozenset({"influence", "self_influence", "mislabel_scores"})
    learned: ClassVar[tuple[str, ...]] = ("checkpoints_", "weights_", "features_")

    dim: int = 512
    weights: Literal["equal", "learning_rate"] = "equal"
    last: int | None = None
    projection: ProjectionName = "sketch"
    seed: int = 0
    similarity: Similarity = "product"

    def _check_parameters(self) -> None:
        check_dim(self.dim)
        check_last(self.last)

    def _fit(self, study: Study) -> None:
        self.checkpoints_, self.weights_ = weighted_checkpoints(study, self.weights, self.last)
        self.features_ = self._features(study, study.train)

    def _features(self, study: Study, data: LabelledDataset) -> Tensor:
        """[C, n, k]."""
        projection = PROJECTIONS[self.projection](self.dim, self.seed)

        def features(checkpoint: Checkpoint) -> dict[str, Tensor]:
            return {"features": project(study.at(checkpoint), study.loss, data, projection)}

        numbered = enumerate(track(self.checkpoints_, f"TracInRP: features of the {data.name} images"))
        parts = [piece(f"checkpoint-{number}", partial(features, one))["features"] for number, one in numbered]
        found = torch.stack(parts).to(study.device)
        return unit_rows(found) if self.similarity == "cosine" else found

    def _influence(self, test_ids: Tensor) -> Tensor:
        queries = self._features(self.study_, self.study_.test.subset(test_ids))
        total = self.features_.new_zeros(len(self._scored_ids), queries.shape[1])
        for weight, features, asked in zip(self.weights_, self.features_, queries, strict=True):
            total.addmm_(self._of_scored(features), asked.T, alpha=weight)
        return total

    def _self_influence(self) -> Tensor:
        refuse_cosine(self, "self_influence")
        weights, features = self.features_.new_tensor(self.weights_), self._of_scored(self.features_.transpose(0, 1))
        return torch.einsum("c,nck,nck->n", weights, features, features)

    def _mislabel_scores(self) -> Tensor:
        refuse_cosine(self, "mislabel_scores")
        return self._self_influence()

    def _disk(self, study: Study) -> float:
        features = len(used(study, self.last)) * len(study.train) * self.dim
        return float(NUMBER * features)

    def _fit_work(self, study: Study) -> Work:
        count = len(used(study, self.last))
        held = 2.0 * NUMBER * count * len(study.train) * self.dim  # one by one, and then stacked
        return count * projected_work(study, len(study.train), self.projection, self.dim) + Work(held=held)

    def _call_work(self, study: Study, what: str, tests: int) -> Work:
        one = projected_work(study, tests, self.projection, self.dim)
        return len(used(study, self.last)) * one if what == "influence" else Work()
