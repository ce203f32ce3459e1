"""Influence through random projections of gradients: RandProj, TracInRP and TRAK.

All three index once and answer instantly: ``fit`` keeps k features of each training image, and a test image costs its
own gradient at each checkpoint and one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators.base import Estimator
from influence_core.estimators.tracin import check_weighting, weighted_checkpoints
from influence_core.gradients import (
    DenseProjection,
    FactoredProjection,
    Projection,
    Projections,
    SketchProjection,
    project,
    sweep,
)
from influence_core.losses import cross_entropy
from influence_core.progress import track
from influence_core.study import Study
from influence_core.training import Checkpoint

Kind = Literal["sketch", "dense", "factored"]
PROJECTIONS: dict[str, type[Projection]] = {
    "sketch": SketchProjection,
    "dense": DenseProjection,
    "factored": FactoredProjection,
}
_ROTATED = {"rotated_inputs": "a random projection belongs to its coordinates: rotated inputs are another draw of it"}
_TRAINED_LABELS = {"label_influence": "it explains the labels that were trained on"}


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

    Example:
        >>> import influence_core as ic
        >>> scores = ic.estimators.RandProj().fit(ic.demo.digits()).influence(test=[0])
        >>> tuple(scores.values.shape)
        (1000, 1)
    """

    name: ClassVar[str] = "randproj"
    title: ClassVar[str] = "RandProj"
    paper: ClassVar[str] = "Kim et al. 2023 (baseline)"
    cost: ClassVar[str] = "N backward; a test image 1 backward"
    reasons: ClassVar[dict[str, str]] = _TRAINED_LABELS
    exempt: ClassVar[dict[str, str]] = _ROTATED
    learned: ClassVar[tuple[str, ...]] = ("features_",)

    dim: int = 512
    projection: Kind = "sketch"
    seed: int = 0

    def _check_parameters(self) -> None:
        _check_projection(self.dim, self.projection)

    def _fit(self, study: Study) -> None:
        self.features_ = self._features(study, study.train)

    def _features(self, study: Study, data: LabelledDataset) -> Tensor:
        return project(study.model, study.loss, data, PROJECTIONS[self.projection](self.dim, self.seed))

    def _influence(self, test_ids: Tensor) -> Tensor:
        return self.features_ @ self._features(self.study_, self.study_.test.subset(test_ids)).T

    def _self_influence(self) -> Tensor:
        return self.features_.square().sum(1)

    def _mislabel_scores(self) -> Tensor:
        return self._self_influence()


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
    """

    name: ClassVar[str] = "tracinrp"
    title: ClassVar[str] = "TracInRP"
    paper: ClassVar[str] = "Pruthi et al. 2020 (random projections)"
    needs: ClassVar[frozenset[str]] = frozenset({"trajectory"})
    cost: ClassVar[str] = "C N backward; a test image C backward"
    reasons: ClassVar[dict[str, str]] = _TRAINED_LABELS
    exempt: ClassVar[dict[str, str]] = _ROTATED
    learned: ClassVar[tuple[str, ...]] = ("checkpoints_", "weights_", "features_")

    dim: int = 512
    weights: Literal["equal", "learning_rate"] = "equal"
    last: int | None = None
    projection: Kind = "sketch"
    seed: int = 0

    def _check_parameters(self) -> None:
        _check_projection(self.dim, self.projection)
        check_weighting(self.weights, self.last)

    def _fit(self, study: Study) -> None:
        self.checkpoints_, self.weights_ = weighted_checkpoints(study, self.weights, self.last)
        self.features_ = self._features(study, study.train)

    def _features(self, study: Study, data: LabelledDataset) -> Tensor:
        """[C, n, k]."""
        projection = PROJECTIONS[self.projection](self.dim, self.seed)
        models = (study.at(c) for c in track(self.checkpoints_, f"TracInRP: features of the {data.name} images"))
        return torch.stack([project(model, study.loss, data, projection) for model in models])

    def _influence(self, test_ids: Tensor) -> Tensor:
        queries = self._features(self.study_, self.study_.test.subset(test_ids))
        weights = self.features_.new_tensor(self.weights_)
        return torch.einsum("c,cnk,cmk->nm", weights, self.features_, queries)

    def _self_influence(self) -> Tensor:
        weights = self.features_.new_tensor(self.weights_)
        return torch.einsum("c,cnk,cnk->n", weights, self.features_, self.features_)

    def _mislabel_scores(self) -> Tensor:
        return self._self_influence()


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
    """

    name: ClassVar[str] = "trak"
    title: ClassVar[str] = "TRAK"
    paper: ClassVar[str] = "Park et al. 2023"
    cost: ClassVar[str] = "C N backward and C k^3; a test image C backward"
    reasons: ClassVar[dict[str, str]] = _TRAINED_LABELS
    exempt: ClassVar[dict[str, str]] = _ROTATED
    learned: ClassVar[tuple[str, ...]] = ("checkpoints_", "damping_", "doubts_", "features_", "leverages_")

    dim: int = 512
    damping: float = 0.1
    last: int | None = None
    projection: Kind = "sketch"
    seed: int = 0

    def _check_parameters(self) -> None:
        _check_projection(self.dim, self.projection)
        check_weighting("equal", self.last)
        if self.damping <= 0:
            raise InvalidInput(f"damping is {self.damping}; features may leave directions empty, so it must be above 0")

    def _fit(self, study: Study) -> None:
        if not _is_cross_entropy(study):
            raise NotSupported(
                f"{self.title} attributes the margin log(p / (1 - p)), which belongs to cross-entropy; the loss of "
                f"{study.name!r} is another one. Without a margin: TracInRP, RandProj."
            )
        trajectory = study.trajectory
        self.checkpoints_: list[Checkpoint] = [] if trajectory is None else list(trajectory)[-(self.last or 0) :]
        preconditioned, leverages, doubts, self.damping_ = [], [], [], []
        for model in self._models(study, "features of the training images"):
            features, doubt = self._features(model, study.train)
            wide = features.double()
            gram = wide.T @ wide
            self.damping_.append(self.damping * float(gram.diagonal().mean()))
            if self.damping_[-1] == 0:
                raise InvalidInput("every margin gradient of the training images is zero: take an earlier checkpoint")
            gram.diagonal().add_(self.damping_[-1])
            solved = torch.cholesky_solve(wide.T, torch.linalg.cholesky(gram)).T
            leverages.append((solved * wide).sum(1).to(features))
            preconditioned.append(solved.to(features))
            doubts.append(doubt)
        self.doubts_ = torch.stack(doubts).mean(0)
        self.leverages_ = torch.stack(leverages).mean(0)
        self.features_ = torch.stack(preconditioned)

    def _models(self, study: Study, what: str) -> Iterable[nn.Module]:
        if not self.checkpoints_:
            return [study.model]
        return (study.at(checkpoint) for checkpoint in track(self.checkpoints_, f"TRAK: {what}"))

    def _features(self, model: nn.Module, data: LabelledDataset) -> tuple[Tensor, Tensor]:
        """Projected gradients of the margins [n, k], and 1 - p of the labels [n]."""
        projection = PROJECTIONS[self.projection](self.dim, self.seed)
        consumer = Projections(projection)
        margins = sweep(model, margin, data, [consumer]).losses
        return consumer.result(), torch.sigmoid(-margins)

    def _influence(self, test_ids: Tensor) -> Tensor:
        chosen = self.study_.test.subset(test_ids)
        products = torch.stack(
            [
                features @ self._features(model, chosen)[0].T
                for features, model in zip(
                    self.features_, self._models(self.study_, "features of the test images"), strict=True
                )
            ]
        )
        return self.doubts_[:, None] * products.mean(0)

    def _self_influence(self) -> Tensor:
        return self.doubts_ * self.leverages_

    def _mislabel_scores(self) -> Tensor:
        return self._self_influence()


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


def _is_cross_entropy(study: Study) -> bool:
    if study.loss is cross_entropy:
        return study.num_classes > 1
    outputs, labels = study.outputs("train"), study.train.labels
    return study.num_classes > 1 and torch.allclose(
        study.loss(outputs, labels), cross_entropy(outputs, labels), rtol=1e-4, atol=1e-6
    )


def _check_projection(dim: int, projection: str) -> None:
    if dim < 2:
        raise InvalidInput(f"dim is {dim}; a projection needs at least two features")
    if projection not in PROJECTIONS:
        raise InvalidInput(f"projection is {projection!r}; choose one of {', '.join(PROJECTIONS)}")
