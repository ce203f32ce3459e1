"""An estimator in a comparison: what it answered, what that took, and why it did not answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from influence_core.errors import InfluenceError
from influence_core.estimators import Estimator, Expected, expected_cost
from influence_core.scores import Scores
from influence_core.study import Study

REFUSALS = (InfluenceError, MemoryError, RuntimeError)
"""What one estimator may raise without ending the comparison of the others; RuntimeError is torch's for memory too."""


@dataclass
class Candidate:
    """One estimator of a comparison.

    Attributes:
        name: its own among all.
        estimator: fitted, unless that was refused.
        answers: public method -> its scores, of those that it gave.
        refused: public method, or "fit" -> why it did not, in a sentence.
        expected: what it was expected to cost, before it began; ``None`` where nobody asked.
    """

    name: str
    estimator: Estimator
    answers: dict[str, Scores] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    expected: Expected | None = None

    def why_not(self, what: str) -> str:
        """Why there is no answer of a public method."""
        return self.refused.get("fit") or self.refused.get(what) or f"{what} was not asked for"

    def foresee(self, study: Study, whats: tuple[str, ...], tests: int) -> None:
        """Note what fit and the first method that it gives are expected to cost.

        Args:
            study: to be worked on.
            whats: public methods.
            tests: number of test images.
        """
        given = [what for what in whats if what in self.estimator.gives()]
        if given:
            self._tried("expected", lambda: self._foresee(study, given[0], tests))

    def _foresee(self, study: Study, what: str, tests: int) -> None:
        self.expected = expected_cost(study, self.estimator, what, tests)

    def ask(self, study: Study, whats: tuple[str, ...], test_ids: Tensor) -> None:
        """Fit, unless it is fitted on the study, and ask for scores; a refusal is noted.

        Args:
            study: to be worked on.
            whats: public methods: "influence", "mislabel_scores".
            test_ids: of the test images, for influence.
        """
        given = self.estimator.gives()
        for what in whats:
            if what not in given:
                self.refused[what] = lacking(self.estimator, what)
        wanted = [what for what in whats if what in given]
        if not wanted:
            return
        if getattr(self.estimator, "study_", None) is not study and not self._tried(
            "fit", lambda: self.estimator.fit(study)
        ):
            return
        for what in wanted:
            self._tried(what, lambda what=what: self._ask(what, test_ids))  # type: ignore[misc]

    def _ask(self, what: str, test_ids: Tensor) -> None:
        arguments = (test_ids,) if what == "influence" else ()
        self.answers[what] = getattr(self.estimator, what)(*arguments)

    def _tried(self, what: str, run: Callable[[], object]) -> bool:
        try:
            run()
        except REFUSALS as error:
            self.refused[what] = said(error)
            return False
        return True


def said(error: BaseException) -> str:
    """An error as a reason: its first line, with its kind where it is not of this package."""
    words = (str(error).splitlines() or [""])[0].strip()
    return words if isinstance(error, InfluenceError) else f"{type(error).__name__}: {words}"


def lacking(estimator: Estimator, what: str) -> str:
    """Why a theory does not give a public method, without the list of other estimators that do."""
    reason = estimator.reasons.get(what, "its theory does not define it")
    return f"{estimator.title} gives no {what.replace('_', ' ')}: {reason}"
