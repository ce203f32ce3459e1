"""Influence along the trajectory of training: TracIn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor, nn

from influence_core.data import LabelledDataset
from influence_core.estimators.base import Estimator
from influence_core.estimators.gradient_products.checkpoints import check_last, used, weighted_checkpoints
from influence_core.estimators.gradient_products.similarity import Similarity, cosines, refuse_cosine
from influence_core.estimators.work import Work, parameters_of, swept
from influence_core.gradients import inner_products, squared_norms
from influence_core.pieces import piece
from influence_core.progress import track
from influence_core.study import Study
from influence_core.training import Checkpoint


@dataclass
class TracIn(Estimator):
    r"""Sum of gradient products over checkpoints (Pruthi et al. 2020, arXiv:2002.08484, section 3.2).

    .. math:: h(z, z') = \sum_c w_c\, \nabla\ell(z', \theta_c) \cdot \nabla\ell(z, \theta_c)

    A step on a training image lowers the loss of a test image by the learning rate times this product, so positive is
    helpful without any change of sign. Self-influence is :math:`\sum_c w_c \lVert\nabla\ell(z, \theta_c)\rVert^2`.
    Expect large scores for any image with a large gradient, whichever side it is on, and see ``similarity``.

    Args:
        weights: "learning_rate" for :math:`w_c = \eta_c` (TracIn's own), "equal" for :math:`w_c = 1/C` (GEX, eq. 5).
        last: how many of the last checkpoints to use; all by default.
        similarity: "product", or "cosine" of the angle between the two gradients at each checkpoint:
            large gradients then drown no others in the rankings, and scores say how alike two images pull, not how
            hard. An image without any gradient has 0. Of itself every image has the same cosine, so that there is no
            self-influence, and the mislabel score is minus the mean cosine with the clean validation images: large for
            an image that pulls against them. In float32 an image fitted to within 1e-6 has a gradient of rounding,
            whose direction then counts like any other: take ``model.double()`` for a network that knows its labels by
            heart.

    Example:
        >>> import influence_core as ic
        >>> scores = ic.estimators.TracIn().fit(ic.demo.digits()).influence(test=[0])
        >>> tuple(scores.values.shape)
        (1000, 1)
    """

    name: ClassVar[str] = "tracin"
    title: ClassVar[str] = "TracIn"
    paper: ClassVar[str] = "Pruthi et al. 2020"
    good_for: ClassVar[str] = "Follows the training itself; predicts retraining half as well as EK-FAC"
    needs: ClassVar[frozenset[str]] = frozenset({"trajectory"})
    cost: ClassVar[str] = "C (N + M) backward"
    reasons: ClassVar[dict[str, str]] = {"label_influence": "it explains the labels that were trained on"}
    by_rows: ClassVar[frozenset[str]] = frozenset({"influence", "self_influence", "mislabel_scores"})
    learned: ClassVar[tuple[str, ...]] = ("checkpoints_", "weights_")

    weights: Literal["learning_rate", "equal"] = "learning_rate"
    last: int | None = None
    similarity: Similarity = "product"

    def _check_parameters(self) -> None:
        check_last(self.last)

    def _fit(self, study: Study) -> None:
        self.checkpoints_, self.weights_ = weighted_checkpoints(study, self.weights, self.last)

    def _influence(self, test_ids: Tensor) -> Tensor:
        study, chosen = self.study_, self.study_.test.subset(test_ids)

        def products(model: nn.Module) -> Tensor:
            if self.similarity == "cosine":
                return self._cosines(model, chosen)
            return inner_products(model, study.loss, self._scored, chosen)

        return self._total(products, "TracIn: gradient products")

    def _self_influence(self) -> Tensor:
        refuse_cosine(self, "self_influence")
        study = self.study_
        return self._total(lambda model: squared_norms(model, study.loss, self._scored), "TracIn: gradient norms")

    def _mislabel_scores(self) -> Tensor:
        if self.similarity == "product":
            return self._self_influence()
        clean = self.study_.split("validation")
        return self._total(lambda model: -self._cosines(model, clean).mean(1), "TracIn: cosines with clean images")

    def _cosines(self, model: nn.Module, others: LabelledDataset) -> Tensor:
        loss, squares = self.study_.loss, (self._scored, others)
        found = inner_products(model, loss, self._scored, others)
        return cosines(found, *(squared_norms(model, loss, data) for data in squares))

    def _needed(self, what: str | None) -> frozenset[str]:
        asks = self.similarity == "cosine" and what == "mislabel_scores"
        return super()._needed(what) | ({"validation"} if asks else set())

    def _total(self, of: Callable[[nn.Module], Tensor], what: str) -> Tensor:
        """The weighted sum over checkpoints, of which one is held beside the sum."""
        total: Tensor | None = None

        def at(checkpoint: Checkpoint) -> dict[str, Tensor]:
            return {"part": of(self.study_.at(checkpoint))}

        weighted = list(zip(self.weights_, self.checkpoints_, strict=True))
        for number, (weight, checkpoint) in enumerate(track(weighted, what)):
            part = piece(f"checkpoint-{number}", partial(at, checkpoint))["part"].to(self.study_.device)
            total = part.mul_(weight) if total is None else total.add_(part, alpha=weight)
            del part  # or it would be there beside the next
        assert total is not None
        return total

    def _fit_work(self, study: Study) -> Work:
        return Work()

    def _call_work(self, study: Study, what: str, tests: int) -> Work:
        train, count = len(study.train), len(used(study, self.last))
        cosine = self.similarity == "cosine"
        if what != "influence" and not cosine:
            return count * swept(train)
        if what == "mislabel_scores":
            tests = len(study.split("validation"))
        return count * (1 + cosine) * (swept(tests) + swept(train, tests, parameters_of(study)))
