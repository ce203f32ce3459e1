"""What influence functions share that solve anew for every query, by products with the curvature of all data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from influence_core.curvature import CurvatureName, Vectors
from influence_core.curvature.inverses import (
    InverseCurvature,
    InverseSpec,
    Solved,
    check_count,
    check_preconditioner,
    check_solve,
    spec,
)
from influence_core.curvature.inverses.nystrom import RANK, NystromInverse
from influence_core.curvature.inverses.streamed import Streamed
from influence_core.curvature.operators import Operator, operator
from influence_core.curvature.shared import found_once
from influence_core.curvature.trusted_damping import trusted_damping
from influence_core.errors import NotSupported
from influence_core.estimators.changes import data_change
from influence_core.estimators.detectors.from_scratch import recipe_of
from influence_core.estimators.influence_functions.base import InfluenceFunction
from influence_core.estimators.influence_functions.validated_damping import (
    DAMPINGS,
    RETRAININGS,
    Agreement,
    agreement,
    left_out,
    retrained_losses,
)
from influence_core.estimators.work import (
    Work,
    diagonal_measured,
    keeps,
    kronecker_work,
    multiplied,
    passes_of,
    rotation,
    swept,
    trained,
)
from influence_core.study import Study

Preconditioner = str | InverseSpec | None

TOLERANCE = 1e-4
"""Relative residual at which a solve is finished, where nothing else is said."""

TRIED_STEPS = 30
"""Products until a damping is found that can be trusted, on the bundled digits."""

TYPICAL_STEPS = 30
"""Of conjugate gradients on the bundled digits, with the default damping, down to a residual of 1e-4."""

FEW_STEPS = 5
"""From EK-FAC towards the exact solution, where retraining on the bundled digits is predicted best."""


@dataclass
class Solving(InfluenceFunction):
    """Solves with products over all training images, so that nothing depends on batches."""

    solves_each_query: ClassVar[bool] = True
    learned: ClassVar[tuple[str, ...]] = ("damping_", "chosen_")

    damping: float | Literal["auto", "validation"] = "auto"
    curvature: CurvatureName = "ggn"
    tolerance: float | None = TOLERANCE

    def _check_parameters(self) -> None:
        check_solve(1.0 if isinstance(self.damping, str) else self.damping, self._tolerance())

    def _tolerance(self) -> float:
        """On the residual; where few steps are meant a solve ends at it too."""
        return TOLERANCE if self.tolerance is None else self.tolerance

    def _needed(self, what: str | None) -> frozenset[str]:
        return super()._needed(what) | ({"validation"} if self.damping == "validation" else set())

    def _fit(self, study: Study) -> None:
        if self.damping == "validation" and study.validation is None:
            raise NotSupported(
                f"damping='validation' needs a validation set with clean labels; the study {study.name!r} has none: "
                "ic.Study(..., validation=...), or take damping='auto'"
            )
        self._prepare(study)
        self.damping_: float = 1.0 if isinstance(self.damping, str) else self.damping
        self.chosen_: dict[str, dict[str, float]] = {}
        with found_once():
            self.inverse_ = self._fit_inverse(study)
            if isinstance(self.damping, str):
                self.study_ = study
                self._choose_damping()

    def _choose_damping(self) -> None:
        """Take the damping that can be trusted, or that agrees with retraining; nothing is fitted again."""
        study, inverse = self.study_, self.inverse_
        held: Any = inverse.holding() if isinstance(inverse, Streamed) else inverse
        if self.damping == "validation":
            found = self._swept_dampings(held)
            self.damping_, known = found.best, dict(zip(found.dampings, found.values, strict=True))
            self.chosen_ = {"agreement": {f"{d:g}": v for d, v in known.items()}}
        else:
            if isinstance(held, Streamed):
                matrix: Operator = held.operator()
                short = isinstance(
                    getattr(held, "preconditioner", None), NystromInverse
                )  # the others make none shorter
                prior = (lambda d: held.damped(d).preconditioned(matrix.shapes)) if short else None
                trusted = trusted_damping(matrix, held.damping, prior)
            else:
                trusted = trusted_damping(self._matrix(study).kept(), held.damping)
            self.damping_ = trusted.damping
            self.chosen_ = {"trust": {f"{d:g}": v for d, v in trusted.ratios.items()}}
        fitted: Any = inverse
        self.inverse_ = fitted.damped(fitted.damping * self.damping_)

    def _matrix(self, study: Study) -> Operator:
        """The curvature that is inverted, where the inverse does not say."""
        weights = study.weight_decay
        return operator(self.curvature, self._train_model(), study.loss, study.train, weight_decay=weights)

    def _prepare(self, study: Study) -> None:
        """What comes before the inverse."""

    def _swept_dampings(self, inverse: Any) -> Agreement:
        """How well each damping predicts what leaving out halves of the training set does to validation images."""
        study, unit = self.study_, inverse.damping
        gone = left_out(study)
        losses = retrained_losses(study, gone)
        changes = [data_change(study.train, study.classes, remove=ids) for ids in gone]
        rows = [stacked([self._taken_away(model, change) for change in changes]) for model in self._changed_at()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damping whose solve does not end is judged by what it predicts

            def moved(damping: float) -> Vectors:
                return self._moved(inverse.damped(unit * damping), rows).vectors

            return agreement(study, self._query_model(), moved, losses)

    def _changed_at(self) -> list[nn.Module]:
        """The models at which gradients of what is left out are needed."""
        return [self._train_model()]

    def _moved(self, inverse: Any, rows: list[Vectors]) -> Solved:
        """How the weights move for such gradients."""
        return inverse.apply(*rows)

    def _facts(self) -> dict[str, Any]:
        return super()._facts() | {"relative_damping": self.damping_} | self.chosen_

    def _fit_work(self, study: Study) -> Work | None:
        before = diagonal_measured(study, solving=True)
        if self.damping == "auto":
            trials = len(DAMPINGS) * Work(forward=len(study.train)) + swept(len(study.train))
            return before + trials + self._products_work(study, TRIED_STEPS)
        if self.damping != "validation":
            return before
        recipe = recipe_of(study)
        halves = RETRAININGS * trained(len(study.train) // 2, recipe.epochs, recipe.batch_size, passes_of(recipe))
        solves = self._solve_work(study, RETRAININGS)
        return None if solves is None else before + halves + len(DAMPINGS) * solves

    def _products_work(self, study: Study, count: float, vectors: int = 1) -> Work:
        """Products of the matrix while it is fitted, when the mean diagonal has been measured."""
        return multiplied(study, count, vectors, kept=self.curvature == "ggn", again=keeps(study))

    def _with_prior_work(self, study: Study, before: Work | None, chosen: Preconditioner) -> Work | None:
        """What a preconditioner takes while it is fitted, besides the rest; ``None`` where that is not known."""
        prior = None if chosen is None else spec(chosen)
        if before is None or prior is None:
            return before
        if prior.name == "ekfac":
            return before + kronecker_work(study, study.num_outputs if prior.options.get("labels") == "exact" else 1)
        if prior.name == "nystrom":
            again = keeps(study) or (self.damping == "auto" and self.curvature == "ggn")
            return before + multiplied(study, 1, int(prior.options.get("rank", RANK)), again=again)
        return None

    def _steps_work(self, study: Study, steps: int, vectors: int, chosen: Preconditioner) -> Work:
        """Products of the matrix and of the preconditioner."""
        solve = multiplied(study, steps, vectors, kept=self.curvature == "ggn")
        if chosen in ("ekfac", InverseSpec("ekfac")):
            solve += Work(algebra=2.0 * steps * vectors * rotation(study))
        return solve


def stacked(parts: Sequence[Vectors]) -> Vectors:
    """Vectors one after the other."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@dataclass
class ByConjugateGradients(Solving):
    """Solves by conjugate gradients, to the end or a few steps of them, plain or preconditioned."""

    tolerance: float | None = None
    max_iterations: int = 500
    preconditioner: Preconditioner = "auto"
    steps: int | None = None

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_count("max_iterations", self.max_iterations)
        if self.steps is not None:
            check_count("steps", self.steps)
        if self.preconditioner != "auto":
            check_preconditioner(self.preconditioner)

    def _steps(self) -> int | None:
        """After how many products a solve stops on purpose: a few, unless a tolerance says to go to the end."""
        return FEW_STEPS if self.steps is None and self.tolerance is None else self.steps

    def _preconditioner(self) -> Preconditioner:
        """The one that was chosen; else EK-FAC where a solve stops early, and what makes it short where it does not."""
        if self.preconditioner != "auto":
            return self.preconditioner
        return "nystrom" if self._steps() is None else "ekfac"

    def _curved(self, study: Study) -> nn.Module:
        """The model whose curvature is taken."""
        return study.model

    def _fit_work(self, study: Study) -> Work | None:
        return self._with_prior_work(study, super()._fit_work(study), self._preconditioner())

    def _solve_work(self, study: Study, vectors: int) -> Work:
        return self._steps_work(
            study, min(self._steps() or TYPICAL_STEPS, self.max_iterations), vectors, self._preconditioner()
        )

    def _fit_inverse(self, study: Study) -> InverseCurvature:
        return InverseSpec("conjugategradient").fit(
            self._curved(study),
            study.loss,
            study.train,
            damping=self.damping_,
            weight_decay=study.weight_decay,
            curvature=self.curvature,
            tolerance=self._tolerance(),
            max_iterations=self.max_iterations,
            preconditioner=self._preconditioner(),
            steps=self._steps(),
        )
