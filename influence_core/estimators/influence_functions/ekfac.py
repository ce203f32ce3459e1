"""Influence functions with a Kronecker-factored curvature: EKFAC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from influence_core.curvature import Draw
from influence_core.curvature.inverses import InverseCurvature, KroneckerInverse, check_damping
from influence_core.estimators.influence_functions.base import InfluenceFunction
from influence_core.estimators.work import Work, kronecker_bytes, kronecker_work, rotation, swept
from influence_core.study import Study


@dataclass
class EKFAC(InfluenceFunction):
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
        damping: :math:`\delta` as a multiple of each layer's mean eigenvalue. The paper's 0.1 predicts retraining a
            little worse on the digits (``tests.benchmarks.lds``).
        labels: "sampled" from the model (the true Fisher matrix, one draw for each image), "exact" for the expectation
            over all K labels at K times the cost, or "empirical" for the given ones.
        corrected: eigenvalues of EK-FAC; else those of K-FAC.
        seed: of the labels.
    """

    name: ClassVar[str] = "ekfac"
    title: ClassVar[str] = "EK-FAC"
    paper: ClassVar[str] = "Grosse et al. 2023; George et al. 2018"
    good_for: ClassVar[str] = "Predicts retraining nearly best, in little time: the one to explain with"
    cost: ClassVar[str] = "2 N backward + eigendecompositions; influence N + M backward"
    by_rows: ClassVar[frozenset[str]] = frozenset({"influence", "self_influence", "mislabel_scores"})
    exempt: ClassVar[dict[str, str]] = {"rotated_inputs": "labels are drawn by the content of an image"}

    damping: float = 0.01
    labels: Draw = "sampled"
    corrected: bool = True
    seed: int = 0

    def _check_parameters(self) -> None:
        check_damping(self.damping)

    def _fit_inverse(self, study: Study) -> InverseCurvature:
        return KroneckerInverse.fit(
            study.model,
            study.loss,
            study.train,
            damping=self.damping,
            weight_decay=study.weight_decay,
            labels=self.labels,
            corrected=self.corrected,
            seed=self.seed,
        )

    def _self_influence(self) -> Tensor:
        study = self.study_
        return self.inverse_.squared_norms(study.model, study.loss, self._scored) / len(study.train)

    def _mislabel_scores(self) -> Tensor:
        return self._self_influence()

    def _disk(self, study: Study) -> float:
        return kronecker_bytes(study)

    def _fit_work(self, study: Study) -> Work:
        return kronecker_work(study, study.num_outputs if self.labels == "exact" else 1)

    def _solve_work(self, study: Study, vectors: int) -> Work:
        return Work(algebra=2 * vectors * rotation(study))

    def _self_work(self, study: Study) -> Work:
        train = len(study.train)
        return swept(train) + Work(algebra=train * rotation(study))
