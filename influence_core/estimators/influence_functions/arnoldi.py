"""Influence functions in the leading eigenvectors of the curvature: Arnoldi."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from influence_core.curvature import CurvatureName
from influence_core.curvature.inverses import LeadingEigenpairs, check_damping
from influence_core.errors import InvalidInput
from influence_core.estimators.answers import Answer
from influence_core.estimators.influence_functions.base import InfluenceFunction
from influence_core.estimators.work import NUMBER, Work, diagonal_measured, multiplied, parameters_of, swept
from influence_core.gradients import inner_products
from influence_core.scores import Scale
from influence_core.study import Study


@dataclass
class Arnoldi(InfluenceFunction):
    r"""Influence in the leading eigenvectors of the curvature (Schioppa et al. 2022, arXiv:2112.03052, section 4).

    Lanczos' method, which is Arnoldi's for a symmetric matrix, gives eigenpairs :math:`(\mu_r, u_r)`; the R largest are
    kept:

    .. math:: h(k, v) = \tfrac1N \sum_r \frac{(u_r\cdot\nabla\ell_v)(u_r\cdot\nabla\ell_k)}{\mu_r + \lambda + \delta} .

    Positive is helpful. The *largest* eigenvalues of H are the smallest of its inverse: what is kept is not what
    dominates an influence function, so the scale is that of ranks, and a random projection may do as well. Only with
    all eigenvectors is it exact. It indexes once: R features of each training image are kept, and a test image costs
    its own gradient. All steps use one matrix, and the basis is orthogonalised twice; the memory for it is steps x P
    numbers. Self-influence comes from the features, and is the mislabel score.

    Args:
        rank: R, at most ``steps``.
        steps: dimension of the Krylov space.
        damping: :math:`\delta` as a multiple of the mean diagonal of the Gauss-Newton matrix.
        curvature: "ggn" or "hessian"; of a Hessian the positive eigenvalues are kept.
        samples: the curvature is that of so many training images, spread evenly, or of all if there are fewer.
        seed: of the first vector.
    """

    name: ClassVar[str] = "arnoldi"
    title: ClassVar[str] = "Arnoldi"
    paper: ClassVar[str] = "Schioppa et al. 2022"
    good_for: ClassVar[str] = "Influence in the leading directions of the curvature; a long fit, then quick answers"
    cost: ClassVar[str] = "steps x 3 min(N, samples) backward + N backward; a test image 1 backward"
    scales: ClassVar[dict[str, Scale]] = {}
    exempt: ClassVar[dict[str, str]] = {
        "rotated_inputs": "its first vector belongs to its coordinates, so that a truncated basis is another one",
    }
    by_rows: ClassVar[frozenset[str]] = frozenset({"influence", "self_influence", "mislabel_scores"})
    learned: ClassVar[tuple[str, ...]] = ("features_",)

    rank: int = 20
    steps: int = 100
    damping: float = 0.1
    curvature: CurvatureName = "ggn"
    samples: int = 4096
    seed: int = 0

    def _check_parameters(self) -> None:
        check_damping(self.damping)
        if not 1 <= self.rank <= self.steps or self.samples < 1:
            raise InvalidInput(
                f"rank={self.rank}, steps={self.steps}, samples={self.samples}: at least 1 of each, and no more "
                "eigenvectors than steps"
            )

    def _fit_inverse(self, study: Study) -> LeadingEigenpairs:
        return LeadingEigenpairs.fit(
            study.model,
            study.loss,
            study.train,
            damping=self.damping,
            weight_decay=study.weight_decay,
            curvature=self.curvature,
            rank=self.rank,
            steps=self.steps,
            samples=self.samples,
            seed=self.seed,
        )

    def _fit(self, study: Study) -> None:
        self.inverse_: LeadingEigenpairs = self._fit_inverse(study)
        self.features_ = inner_products(study.model, study.loss, study.train, self.inverse_.basis)

    def _divided(self) -> Tensor:
        """Inverse eigenvalues over N, [R]."""
        return (self.inverse_.inverse_values() / len(self.study_.train)).to(self.features_)

    def _influence(self, test_ids: Tensor) -> Answer:
        study = self.study_
        queries = inner_products(study.model, study.loss, study.test.subset(test_ids), self.inverse_.basis)
        return Answer(self._of_scored(self.features_) @ queries.mul_(self._divided()).T)

    def _self_influence(self) -> Tensor:
        return self._of_scored(self.features_).square() @ self._divided()

    def _mislabel_scores(self) -> Tensor:
        return self._self_influence()

    def _disk(self, study: Study) -> float:
        return float(NUMBER * (len(study.train) + parameters_of(study)) * self.rank)

    def _fit_work(self, study: Study) -> Work:
        train, size = len(study.train), parameters_of(study)
        held = NUMBER * (self.steps + 2 * self.rank) * size
        basis = Work(algebra=2.0 * self.steps**2 * size, held=held)  # orthogonalised twice against all vectors before
        space = (
            multiplied(study, min(self.steps, size), samples=min(train, self.samples), kept=self.curvature == "ggn")
            + basis
        )
        return space + diagonal_measured(study) + swept(train, self.rank, size)

    def _call_work(self, study: Study, what: str, tests: int) -> Work:
        if what == "parameter_change":
            return swept(tests)
        return swept(tests, self.rank, parameters_of(study)) if what == "influence" else Work()
