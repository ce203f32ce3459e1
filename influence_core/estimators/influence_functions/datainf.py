"""Influence functions with a closed-form inverse: DataInf."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from influence_core.curvature.inverses import MeanOfInverses, check_damping
from influence_core.curvature.inverses.mean_of_inverses import PAIR_BYTES
from influence_core.errors import InvalidInput
from influence_core.estimators.answers import Answer
from influence_core.estimators.influence_functions.base import InfluenceFunction
from influence_core.estimators.work import Work, parameters_of, swept
from influence_core.scores import Scale
from influence_core.study import Study


@dataclass
class DataInf(InfluenceFunction):
    r"""Influence functions with the mean of inverses for the inverse of a mean (Kwon et al. 2024, arXiv:2310.00902).

    For every parameter tensor l apart, with the training gradients :math:`g_n` of it and
    :math:`\lambda_l = \lambda + \delta_l`, Sherman and Morrison's formula inverts each summand (eq. 5):

    .. math:: H_l^{-1} v \approx \frac1N\sum_n (g_n g_n^\top + \lambda_l I)^{-1} v
              = \frac1{N\lambda_l}\sum_n\Big[v - \frac{g_n\cdot v}{\lambda_l + \lVert g_n\rVert^2}\,g_n\Big],
              \qquad h(k, v) = \tfrac1N \sum_l g_{v,l}^\top H_l^{-1} g_{k,l} .

    Positive is helpful (the authors' code has the other sign). Swapping mean and inverse is meant for small tensors,
    such as low-rank adapters; on whole networks the error is large, so the scale is that of ranks. Mislabel scores need
    a validation set: minus the influence on its mean loss. Self-influence takes every pair of training gradients.

    Args:
        damping: :math:`\delta_l` as a multiple of the mean squared entry of the tensor's gradients.
    """

    name: ClassVar[str] = "datainf"
    title: ClassVar[str] = "DataInf"
    paper: ClassVar[str] = "Kwon et al. 2024"
    good_for: ClassVar[str] = "A cheap influence function for small tensors; rough on whole networks"
    cost: ClassVar[str] = "N backward; influence 2 N + M backward; self-influence N^2 inner products"
    scales: ClassVar[dict[str, Scale]] = {}
    by_rows: ClassVar[frozenset[str]] = frozenset({"influence", "mislabel_scores"})
    asks_validation: ClassVar[bool] = True

    damping: float = 0.1

    def _check_parameters(self) -> None:
        check_damping(self.damping)
        if self.damping == 0:
            raise InvalidInput(f"damping is {self.damping}; each summand has rank one, so it must be above 0")

    def _fit_inverse(self, study: Study) -> MeanOfInverses:
        decay = study.weight_decay
        return MeanOfInverses.fit(study.model, study.loss, study.train, damping=self.damping, weight_decay=decay)

    def _fit(self, study: Study) -> None:
        self.inverse_: MeanOfInverses = self._fit_inverse(study)

    def _self_influence(self) -> Tensor:
        return self.inverse_.own_norms() / len(self.study_.train)

    def _mislabel_scores(self) -> Answer:
        return self._against_validation()

    def _fit_work(self, study: Study) -> Work:
        return swept(len(study.train))

    def _solve_work(self, study: Study, vectors: int) -> Work:
        return swept(len(study.train), 2 * vectors, parameters_of(study))

    def _self_work(self, study: Study) -> Work:
        train, size = len(study.train), parameters_of(study)
        blocks = math.ceil(train * size * next(study.model.parameters()).element_size() / PAIR_BYTES)
        return swept(train) + blocks * swept(train) + Work(algebra=train**2 * size)
