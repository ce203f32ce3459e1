"""What all methods share that measure gradients in the curvature of the validation loss, at a model tuned on it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from influence_core.curvature.inverses import DiagonalInverse, InverseCurvature, Solved
from influence_core.curvature.labels import MANY_LABELS, TOP_LABELS
from influence_core.errors import InvalidInput
from influence_core.estimators.answers import Answer
from influence_core.estimators.base import WEAK_INFLUENCE
from influence_core.estimators.flat_minima.tuning import ValidationTuned
from influence_core.estimators.work import NUMBER, Work, parameters_of, swept
from influence_core.gradients import inner_products, per_sample_gradients
from influence_core.study import Study


@dataclass
class ValidationMinimum(ValidationTuned):
    """Tunes, and fits the diagonal of the validation set's Fisher matrix there.

    A subclass with other curvatures overrides ``_fit_inverse``.
    """

    reasons: ClassVar[dict[str, str]] = {
        "self_influence": "q measures disagreement with the validation set, not what the image does to itself"
    }
    exempt: ClassVar[dict[str, str]] = {"rotated_inputs": "a diagonal metric belongs to its coordinates"}
    by_rows: ClassVar[frozenset[str]] = frozenset({"influence", "mislabel_scores", "label_influence"})
    evidence: ClassVar[dict[str, str]] = WEAK_INFLUENCE
    learned: ClassVar[tuple[str, ...]] = ("model_", "inverse_")

    damping: float | None = None
    top_labels: int | None = field(default=None, kw_only=True)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.damping is not None and not 0 < self.damping < math.inf:
            raise InvalidInput(f"damping is {self.damping}; it divides by P + damping, so it must be above 0")
        if self.top_labels is not None and self.top_labels < 0:
            raise InvalidInput(f"top_labels is {self.top_labels}; it is a number of labels, or 0 for all")

    def _fit(self, study: Study) -> None:
        self.model_: nn.Module = self._tuned(study)
        self.inverse_ = self._fit_inverse(study)

    def _fit_inverse(self, study: Study) -> InverseCurvature:
        damping = 1e-3 if self.damping is None else self.damping
        return DiagonalInverse.fit(self.model_, study.loss, study.split("validation"), damping=damping)

    def _disk(self, study: Study) -> float:
        return float(2 * NUMBER * parameters_of(study))

    def _fit_work(self, study: Study) -> Work | None:
        return self._tuned_work(study) + swept(len(study.split("validation")))

    def _call_work(self, study: Study, what: str, tests: int) -> Work | None:
        train, size = len(study.train), parameters_of(study)
        if what == "influence":
            return swept(tests) + swept(train, tests, size)
        return self._labels_work(study) if what == "label_influence" else swept(train)

    def _labels_work(self, study: Study) -> Work:
        """The work of gradients with each label: a pass back for each of them, in one sweep."""
        few = study.num_classes if study.num_classes < MANY_LABELS else TOP_LABELS + 1
        labels = {None: few, 0: study.num_classes}.get(self.top_labels, (self.top_labels or 0) + 1)
        return Work(backward=len(study.train) * min(labels, study.num_classes), sweeps=1)

    def _influence(self, test_ids: Tensor) -> Answer:
        return self._first_order(self._queries(test_ids))

    def _queries(self, test_ids: Tensor) -> Solved:
        """The inverse times the gradients of test images."""
        study = self.study_
        return self.inverse_.apply(per_sample_gradients(self.model_, study.loss, study.test.subset(test_ids)))

    def _first_order(self, queries: Solved) -> Answer:
        study = self.study_
        return Answer(inner_products(self.model_, study.loss, self._scored, queries.vectors), queries.facts)

    def _facts(self) -> dict[str, Any]:
        settled = self.inverse_.facts()
        return {name: value for name, value in settled.items() if name != "weight_decay"}
