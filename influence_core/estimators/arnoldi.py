"""Influence functions in the leading eigenvectors of the curvature: Arnoldi."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from influence_core.curvature import Kind, Vectors, flatten, lanczos, mean_diagonal, operator, unflatten
from influence_core.errors import InvalidInput
from influence_core.estimators.hessian_based import HessianBased, check_damping
from influence_core.gradients import inner_products
from influence_core.scores import Scale
from influence_core.study import Study


@dataclass
class Arnoldi(HessianBased):
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
    cost: ClassVar[str] = "steps x 3 min(N, samples) backward + N backward; a test image 1 backward"
    scales: ClassVar[dict[str, Scale]] = {}
    exempt: ClassVar[dict[str, str]] = {
        "rotated_inputs": "its first vector belongs to its coordinates, so that a truncated basis is another one",
    }
    learned: ClassVar[tuple[str, ...]] = ("damping_", "error_", "features_", "values_", "vectors_")

    rank: int = 20
    steps: int = 100
    damping: float = 0.1
    curvature: Kind = "ggn"
    samples: int = 4096
    seed: int = 0

    def _check_parameters(self) -> None:
        check_damping(self.damping)
        if not 1 <= self.rank <= self.steps or self.samples < 1:
            raise InvalidInput(
                f"rank={self.rank}, steps={self.steps}, samples={self.samples}: at least 1 of each, and no more "
                "eigenvectors than steps"
            )
        if self.curvature not in ("ggn", "hessian"):
            raise InvalidInput(f"curvature is {self.curvature!r}; choose 'ggn' or 'hessian'")

    def _fit(self, study: Study) -> None:
        size = len(study.train)
        ids = torch.arange(min(size, self.samples)) * size // min(size, self.samples)
        matrix = operator(self.curvature, study.model, study.loss, study.train.subset(ids))
        pairs = lanczos(matrix, matrix.size, self.steps, like=matrix.parameters[0], seed=self.seed)
        keep = pairs.values[: self.rank] > 1e-6 * pairs.values[0].abs()
        if not bool(keep.any()):
            raise InvalidInput("the curvature has no positive eigenvalue at these weights: use curvature='ggn'")
        self.vectors_: Vectors = unflatten(pairs.vectors[: self.rank][keep], matrix.shapes)
        self.values_ = pairs.values[: self.rank][keep]
        self.error_ = float((pairs.residuals[: self.rank][keep] / self.values_).max())
        self.damping_ = self.damping * mean_diagonal(study.model, study.loss, study.train) if self.damping else 0.0
        self.features_ = inner_products(study.model, study.loss, study.train, self.vectors_)

    def _inverse(self) -> Tensor:
        """Inverse eigenvalues over N, [R]."""
        shifted = self.values_ + (self.study_.weight_decay + self.damping_)
        return (1.0 / (shifted * len(self.study_.train))).to(self.features_)

    def _solve(self, vectors: Vectors) -> Vectors:
        shapes = {name: tuple(v.shape[1:]) for name, v in self.vectors_.items()}
        basis = flatten(self.vectors_, shapes)
        inside = flatten(vectors, shapes) @ basis.T * (self._inverse() * len(self.study_.train))
        return unflatten(inside @ basis, shapes)

    def _influence(self, test_ids: Tensor) -> Tensor:
        study = self.study_
        queries = inner_products(study.model, study.loss, study.test.subset(test_ids), self.vectors_)
        return (self.features_ * self._inverse()) @ queries.T

    def _self_influence(self) -> Tensor:
        return self.features_.square() @ self._inverse()

    def _mislabel_scores(self) -> Tensor:
        return self._self_influence()

    def _facts(self) -> dict[str, Any]:
        return {
            "damping": self.damping_,
            "weight_decay": self.study_.weight_decay,
            "residual": self.error_,
            "rank": len(self.values_),
        }
