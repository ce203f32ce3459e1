"""Gradient products at the trained model through a random projection: RandProj."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from influence_core.data import LabelledDataset
from influence_core.estimators.base import Estimator
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
from influence_core.study import Study


@dataclass
class RandProj(Estimator):
    r"""Gradient products at the trained model, through a random projection Q (baseline of Kim et al. 2023, "GEX").

    .. math:: h(z, z') = (Q^\top\nabla\ell(z')) \cdot (Q^\top\nabla\ell(z)), \qquad E[Q Q^\top] = I .

    Positive is helpful, as in TracIn. The products are right on average over seeds, with a standard deviation of
    about :math:`\sqrt{2/k}` of a squared norm: 32 % for the paper's k = 20, 6 % for the default of 512. That costs
    hardly more, since the backward pass is what takes the time. The self-influence is :math:`\lVert Q^\top g\rVert^2`.

    Args:
        dim: k, the features kept of each image.
        projection: "sketch" (signs, folded into k buckets; as accurate as "dense"), "dense" (k multiply-adds for each
            parameter and image), or "factored" (two-sided; least memory, least accurate).
        seed: of the projection.
        similarity: "product", or "cosine" of the angle between the two gradients, after the projection:
            large gradients then drown no others in the rankings, and scores say how alike two images pull, not how
            hard. An image without any gradient has 0. Of itself every image has the same cosine, so that there is no
            self-influence.

    Example:
        >>> import influence_core as ic
        >>> scores = ic.estimators.RandProj().fit(ic.demo.digits()).influence(test=[0])
        >>> tuple(scores.values.shape)
        (1000, 1)
    """

    name: ClassVar[str] = "randproj"
    title: ClassVar[str] = "RandProj"
    paper: ClassVar[str] = "Kim et al. 2023 (baseline)"
    good_for: ClassVar[str] = "The quickest gradient products: what other explanations should be better than"
    cost: ClassVar[str] = "N backward; a test image 1 backward"
    reasons: ClassVar[dict[str, str]] = TRAINED_LABELS
    exempt: ClassVar[dict[str, str]] = ROTATED
    by_rows: ClassVar[frozenset[str]] = frozenset({"influence", "self_influence", "mislabel_scores"})
    learned: ClassVar[tuple[str, ...]] = ("features_",)

    dim: int = 512
    projection: ProjectionName = "sketch"
    seed: int = 0
    similarity: Similarity = "product"

    def _check_parameters(self) -> None:
        check_dim(self.dim)

    def _fit(self, study: Study) -> None:
        self.features_ = self._features(study, study.train)

    def _features(self, study: Study, data: LabelledDataset) -> Tensor:
        found = project(study.model, study.loss, data, PROJECTIONS[self.projection](self.dim, self.seed))
        return unit_rows(found) if self.similarity == "cosine" else found

    def _influence(self, test_ids: Tensor) -> Tensor:
        return self._of_scored(self.features_) @ self._features(self.study_, self.study_.test.subset(test_ids)).T

    def _self_influence(self) -> Tensor:
        refuse_cosine(self, "self_influence")
        return self._of_scored(self.features_).square().sum(1)

    def _mislabel_scores(self) -> Tensor:
        refuse_cosine(self, "mislabel_scores")
        return self._self_influence()

    def _fit_work(self, study: Study) -> Work:
        return projected_work(study, len(study.train), self.projection, self.dim)

    def _disk(self, study: Study) -> float:
        return float(NUMBER * len(study.train) * self.dim)

    def _call_work(self, study: Study, what: str, tests: int) -> Work:
        return projected_work(study, tests, self.projection, self.dim) if what == "influence" else Work()
