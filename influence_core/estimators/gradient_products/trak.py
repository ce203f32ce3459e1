"""Gauss-Newton in the space of projected gradients: TRAK."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators.base import Estimator
from influence_core.estimators.gradient_products.checkpoints import check_last, used
from influence_core.estimators.gradient_products.projected import (
    PROJECTIONS,
    ROTATED,
    TRAINED_LABELS,
    ProjectionName,
    check_dim,
    projected_work,
)
from influence_core.estimators.gradient_products.similarity import Similarity, unit_rows
from influence_core.estimators.work import NUMBER, Work
from influence_core.gradients import Projections, sweep
from influence_core.losses import cross_entropy
from influence_core.models import model_outputs
from influence_core.pieces import piece
from influence_core.progress import track
from influence_core.study import Study
from influence_core.training import Checkpoint

TRIED = 64
"""Training images on which a loss is compared with cross-entropy, where nothing is to be computed yet."""


@dataclass
class TRAK(Estimator):
    r"""Gauss-Newton in the space of projected gradients (Park et al. 2023, "TRAK", arXiv:2303.14186, section 3).

    The output that is attributed is the margin of the label, :math:`f = \log p_y/(1 - p_y)`, whose gradients are
    projected: :math:`\phi_c(z) = P^\top\nabla f(z, \theta_c)`, stacked to :math:`\Phi_c` for the training images. With
    :math:`Q_c(z) = 1 - p_y(z, \theta_c)` and means over the checkpoints,

    .. math:: \tau(z, z') = \bar Q(z) \cdot \frac1C\sum_c
              \phi_c(z)^\top(\Phi_c^\top\Phi_c + \lambda_c)^{-1}\phi_c(z').

    This estimates how much the training image raises the margin of the test image. The cross-entropy is
    :math:`\log(1 + e^{-f})`, which falls as the margin rises, so positive is helpful without any change of sign; only
    the ranks within a column are those of the change of loss. The self-influence is the diagonal,
    :math:`\bar Q(z)` times the leverage of the image. The paper averages over models trained on random halves and cuts
    small scores to zero; here the checkpoints of one training stand in for the models, as in its ablations, and nothing
    is cut.

    Args:
        dim: k, the features kept of each image and checkpoint. It should stay below the number of training images,
            beyond which the damping alone decides.
        damping: :math:`\lambda_c` relative to the mean of the diagonal of :math:`\Phi_c^\top\Phi_c`. The paper has
            none, but a projection may leave directions without any gradient.
        last: how many of the last checkpoints to use; all by default. A study without a trajectory has its trained
            model as the only one.
        projection: as in ``RandProj``.
        seed: of the projection, which is the same at every checkpoint.
        similarity: "product", or "cosine" to give all features length 1 before the Gauss-Newton matrix is made of them.
    """

    name: ClassVar[str] = "trak"
    title: ClassVar[str] = "TRAK"
    paper: ClassVar[str] = "Park et al. 2023"
    good_for: ClassVar[str] = "Predicts retraining nearly as well as EK-FAC, and answers new test images at once"
    cost: ClassVar[str] = "C N backward and C k^3; a test image C backward"
    reasons: ClassVar[dict[str, str]] = TRAINED_LABELS
    exempt: ClassVar[dict[str, str]] = ROTATED
    for_classes: ClassVar[frozenset[str]] = frozenset({"fit"})
    by_rows: ClassVar[frozenset[str]] = frozenset({"influence", "self_influence", "mislabel_scores"})
    learned: ClassVar[tuple[str, ...]] = ("checkpoints_", "damping_", "doubts_", "features_", "leverages_")

    dim: int = 512
    damping: float = 0.1
    last: int | None = None
    projection: ProjectionName = "sketch"
    seed: int = 0
    similarity: Similarity = "product"

    def _check_parameters(self) -> None:
        check_dim(self.dim)
        check_last(self.last)
        if not 0 < self.damping < math.inf:
            raise InvalidInput(f"damping is {self.damping}; features may leave directions empty, so it must be above 0")

    def _fit(self, study: Study) -> None:
        if not _is_cross_entropy(study):
            raise NotSupported(
                f"{self.title} attributes the margin log(p / (1 - p)), which belongs to cross-entropy; the loss of "
                f"{study.name!r} is another one. Without a margin: TracInRP, RandProj."
            )
        self.checkpoints_: list[Checkpoint] = used(study, self.last)
        found = list(self._at_each(study, "features of the training images", partial(self._learned_at, study)))
        self.damping_ = [float(one["damping"]) for one in found]
        self.doubts_, self.leverages_, self.features_ = (
            torch.stack([one[name] for one in found]).to(study.device) for name in ("doubts", "leverages", "features")
        )
        self.doubts_, self.leverages_ = self.doubts_.mean(0), self.leverages_.mean(0)

    def _at_each(
        self, study: Study, what: str, of: Callable[[nn.Module], Mapping[str, Tensor]]
    ) -> Iterator[dict[str, Tensor]]:
        """What is made of the model at each checkpoint, which are a piece each."""

        def at(checkpoint: Checkpoint | None) -> Mapping[str, Tensor]:
            return of(study.model if checkpoint is None else study.at(checkpoint))

        checkpoints: list[Checkpoint | None] = [*self.checkpoints_] or [None]
        for number, checkpoint in enumerate(track(checkpoints, f"TRAK: {what}")):
            yield piece(f"checkpoint-{number}", partial(at, checkpoint))

    def _learned_at(self, study: Study, model: nn.Module) -> dict[str, Tensor]:
        """Preconditioned features of the training images [N, k], their leverages and doubts [N], and the damping."""
        features, doubts = self._features(model, study.train)
        wide = features.double()
        gram = wide.T @ wide
        damping = self.damping * gram.diagonal().mean()
        if float(damping) == 0:
            raise InvalidInput("every margin gradient of the training images is zero: take an earlier checkpoint")
        gram.diagonal().add_(damping)
        solved = torch.cholesky_solve(wide.T, torch.linalg.cholesky(gram)).T
        leverages = (solved * wide).sum(1).to(features)
        return {"features": solved.to(features), "leverages": leverages, "doubts": doubts, "damping": damping}

    def _features(self, model: nn.Module, data: LabelledDataset) -> tuple[Tensor, Tensor]:
        """Projected gradients of the margins [n, k], and 1 - p of the labels [n]."""
        projection = PROJECTIONS[self.projection](self.dim, self.seed)
        consumer = Projections(projection)
        margins = sweep(model, margin, data, [consumer]).losses
        found = consumer.result()
        return unit_rows(found) if self.similarity == "cosine" else found, torch.sigmoid(-margins)

    def _influence(self, test_ids: Tensor) -> Tensor:
        chosen = self.study_.test.subset(test_ids)
        asked = self._at_each(
            self.study_, "features of the test images", lambda model: {"features": self._features(model, chosen)[0]}
        )
        total = self.features_.new_zeros(len(self._scored_ids), len(chosen))
        for features, queries in zip(self.features_, asked, strict=True):
            total.addmm_(self._of_scored(features), queries["features"].to(total).T)
        return total.mul_(self._of_scored(self.doubts_)[:, None] / len(self.features_))

    def _self_influence(self) -> Tensor:
        return self._of_scored(self.doubts_ * self.leverages_)

    def _mislabel_scores(self) -> Tensor:
        return self._self_influence()

    def _unsuited(self, study: Study) -> list[str]:
        return [] if _is_cross_entropy(study, TRIED) else ["a cross-entropy loss"]

    def _disk(self, study: Study) -> float:
        features = max(1, len(used(study, self.last))) * len(study.train) * (self.dim + 2)
        return float(NUMBER * features)

    def _fit_work(self, study: Study) -> Work:
        train, count = len(study.train), max(1, len(used(study, self.last)))
        kept = 2.0 * NUMBER * count * train * self.dim  # one by one, and then stacked
        held = kept + 2.0 * 8 * (2 * train + self.dim) * self.dim
        solved = Work(algebra=3 * train * self.dim**2 + self.dim**3 / 3, held=held)
        return count * (projected_work(study, train, self.projection, self.dim) + solved)

    def _call_work(self, study: Study, what: str, tests: int) -> Work:
        if what != "influence":
            return Work()
        products = Work(algebra=len(study.train) * tests * self.dim)
        count = max(1, len(used(study, self.last)))
        return count * (projected_work(study, tests, self.projection, self.dim) + products)


def margin(outputs: Tensor, labels: Tensor) -> Tensor:
    """Log-odds of the labels, ``log(p / (1 - p))``, without the loss of digits of forming p.

    Args:
        outputs: logits [B, K].
        labels: int64 [B].

    Returns:
        [B].
    """
    own = outputs.gather(1, labels[:, None])
    others = outputs.scatter(1, labels[:, None], -torch.inf)
    return own[:, 0] - others.logsumexp(1)


def _is_cross_entropy(study: Study, most: int | None = None) -> bool:
    """Whether the loss is cross-entropy; another function is tried on the training images, or on the first ones."""
    if study.loss is cross_entropy or study.num_classes < 2:
        return study.num_classes > 1
    ids = torch.arange(len(study.train))[:most]
    outputs = study.outputs("train") if most is None else model_outputs(study.model, study.train, ids)
    labels = study.train.labels[ids]
    return torch.allclose(study.loss(outputs, labels), cross_entropy(outputs, labels), rtol=1e-4, atol=1e-6)
