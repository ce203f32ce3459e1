"""Influence functions with a Kronecker-factored curvature: EKFAC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from influence_core.curvature import KFAC, Draw, KroneckerInverse, Vectors
from influence_core.errors import InvalidInput
from influence_core.estimators.hessian_based import HessianBased, check_damping
from influence_core.gradients import squared_norms
from influence_core.study import Study


@dataclass
class EKFAC(HessianBased):
    r"""Influence functions with an eigenvalue-corrected Kronecker factorisation (Grosse et al. 2023, arXiv:2308.03296).

    The Fisher matrix is taken block by block. In a linear layer or convolution with inputs a and output gradients
    :math:`\delta`, :math:`E[\tilde a\tilde a^\top] = Q_A \cdot Q_A^\top` and
    :math:`E[\delta\delta^\top] = Q_S \cdot Q_S^\top` give the eigenbasis, and the per-sample gradients' second
    moments in it, :math:`\Lambda`, the eigenvalues (George et al. 2018):

    .. math:: H^{-1} V = Q_S\,[(Q_S^\top V Q_A) \oslash (\Lambda + \lambda + \delta)]\,Q_A^\top \quad\text{(eq. 20)},
              \qquad h(k, v) = \tfrac1N \nabla\ell_v^\top H^{-1} \nabla\ell_k .

    Positive is helpful. Groups of a convolution are blocks of their own, several uses of a module are summed before
    squaring, and parameters outside linear layers and convolutions (batch normalisation's scales and shifts) take the
    diagonal of the Fisher matrix: the coverage is the whole model, and the scores say which share is in Kronecker
    blocks. Self-influence costs one sweep, and is the mislabel score.

    Args:
        damping: :math:`\delta` as a multiple of each layer's mean eigenvalue.
        labels: "sampled" from the model (the true Fisher matrix, one draw for each image), "exact" for the expectation
            over all K labels at K times the cost, or "empirical" for the given ones.
        corrected: eigenvalues of EK-FAC; else those of K-FAC.
        seed: of the labels.
    """

    name: ClassVar[str] = "ekfac"
    title: ClassVar[str] = "EK-FAC"
    paper: ClassVar[str] = "Grosse et al. 2023; George et al. 2018"
    cost: ClassVar[str] = "2 N backward + eigendecompositions; influence N + M backward"
    exempt: ClassVar[dict[str, str]] = {"rotated_inputs": "labels are drawn by the content of an image"}
    learned: ClassVar[tuple[str, ...]] = ("kfac_",)

    damping: float = 0.1
    labels: Draw = "sampled"
    corrected: bool = True
    seed: int = 0

    def _check_parameters(self) -> None:
        check_damping(self.damping)
        if self.labels not in ("sampled", "exact", "empirical"):
            raise InvalidInput(f"labels is {self.labels!r}; choose 'sampled', 'exact' or 'empirical'")

    def _fit(self, study: Study) -> None:
        self.kfac_ = KFAC.fit(study.model, study.loss, study.train, draw=self.labels, seed=self.seed)

    def _inverse(self) -> KroneckerInverse:
        return self.kfac_.inverse(self.damping, weight_decay=self.study_.weight_decay, corrected=self.corrected)

    def _solve(self, vectors: Vectors) -> Vectors:
        return self._inverse().apply(vectors)

    def _self_influence(self) -> Tensor:
        study = self.study_
        norms = squared_norms(study.model, study.loss, study.train, self._inverse().metric())
        return norms / len(study.train)

    def _mislabel_scores(self) -> Tensor:
        return self._self_influence()

    def _facts(self) -> dict[str, Any]:
        inverse = self._inverse()
        return {
            "damping": dict(inverse.damping),
            "weight_decay": self.study_.weight_decay,
            "kronecker_share": inverse.kronecker_share,
        }
