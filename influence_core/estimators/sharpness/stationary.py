"""What influence functions share of a model at the stationary point of sharpness-aware minimisation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from influence_core.curvature import check_radius, climbed
from influence_core.estimators.answers import Answer
from influence_core.estimators.influence_functions.solving import Solving
from influence_core.estimators.sharpness.radius import radius
from influence_core.estimators.work import Work, swept
from influence_core.study import Study


@dataclass
class AtTheAscent(Solving):
    """Training gradients at the perturbed weights, test gradients at the trained ones.

    The gradients of an image at two different weights make no square: there is no self-influence.
    """

    reasons: ClassVar[dict[str, str]] = {
        "label_influence": "it explains the labels that were trained on",
        "self_influence": "products of an image's gradients at different weights are no squares and can be negative",
    }
    by_rows: ClassVar[frozenset[str]] = frozenset({"influence", "mislabel_scores"})
    asks_validation: ClassVar[bool] = True
    learned: ClassVar[tuple[str, ...]] = ("ascent_", "perturbed_", "rho_", "rho_from_")

    rho: float | None = field(default=None, kw_only=True)
    p: float = field(default=2.0, kw_only=True)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_radius(self.rho, self.p)

    def _prepare(self, study: Study) -> None:
        self.rho_, self.rho_from_ = radius(study, self.rho)
        self.perturbed_, self.ascent_ = climbed(study.model, study.loss, study.train, self.rho_, self.p)

    def _fit_work(self, study: Study) -> Work | None:
        inverse = super()._fit_work(study)
        return None if inverse is None else swept(len(study.train)) + inverse

    def _train_model(self) -> nn.Module:
        return self.perturbed_

    def _mislabel_scores(self) -> Answer:
        return self._against_validation()

    def _facts(self) -> dict[str, Any]:
        return super()._facts() | {"rho": self.rho_, "rho_from": self.rho_from_}
