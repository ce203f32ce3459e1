"""What all methods with an inverse curvature share: one solve for each query, then one sweep over the training data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from influence_core.curvature import Vectors
from influence_core.curvature.inverses import InverseCurvature, Solved, worst
from influence_core.estimators.answers import Answer, Changed
from influence_core.estimators.base import Estimator
from influence_core.estimators.changes import DataChange, term_gradient
from influence_core.estimators.work import Work, parameters_of, swept
from influence_core.gradients import inner_products, mean_gradient, per_sample_gradients
from influence_core.pieces import common, packed, piece, unpacked
from influence_core.progress import track
from influence_core.scores import Scale
from influence_core.study import Study

_FACTS = "facts of the solve"

SOLVE_BYTES = 64 * 2**20
"""Right-hand sides of about this size are solved for together."""


@dataclass
class InfluenceFunction(Estimator):
    r"""Influence functions (Koh and Liang 2017, eq. 2, with the sign turned so that positive is helpful).

    Removing the training image k from the mean loss, :math:`\frac1N\sum_n\ell_n + \frac\lambda2\lVert\theta\rVert^2`,
    moves the minimum to first order by

    .. math:: \Delta\theta = \tfrac1N H^{-1} \nabla\ell_k,

    and the loss of a test image v by :math:`h(k, v) = \frac1N \nabla\ell_v^\top H^{-1}\nabla\ell_k`, in nats for
    cross-entropy. For a set of images both are sums, and so they are for new labels and weights (see
    ``estimators.changes``). 1/N stays 1/N: the other images' weights do not change.

    A subclass says what ``H^{-1}`` is: it overrides ``_fit_inverse``, and ``_self_influence`` where that is cheap.
    """

    scales: ClassVar[dict[str, Scale]] = {"influence": "nats", "self_influence": "nats"}
    reasons: ClassVar[dict[str, str]] = {"label_influence": "it explains the labels that were trained on"}
    by_rows: ClassVar[frozenset[str]] = frozenset({"influence"})
    learned: ClassVar[tuple[str, ...]] = ("inverse_",)
    solve_bytes: ClassVar[int] = SOLVE_BYTES
    asks_validation: ClassVar[bool] = False  # for mislabel scores, in place of self-influence

    @abstractmethod
    def _fit_inverse(self, study: Study) -> InverseCurvature:
        """The inverse curvature of the training loss."""

    def _fit(self, study: Study) -> None:
        self.inverse_ = self._fit_inverse(study)

    def _facts(self) -> dict[str, Any]:
        return self.inverse_.facts()

    def _query_model(self) -> nn.Module:
        """The model at which queries' gradients are taken."""
        return self.study_.model

    def _train_model(self) -> nn.Module:
        """The model at which training images' gradients are taken."""
        return self._query_model()

    def _samples(self, split: str, ids: Tensor | None = None) -> Any:
        """The data that these models take."""
        data = self.study_.split(split)
        return data if ids is None else data.subset(ids)

    def _needed(self, what: str | None) -> frozenset[str]:
        asks = what == "mislabel_scores" and self.asks_validation
        return super()._needed(what) | ({"validation"} if asks else set())

    def _call_work(self, study: Study, what: str, tests: int) -> Work | None:
        asks = what == "mislabel_scores" and self.asks_validation
        if what in ("self_influence", "mislabel_scores") and not asks:
            return self._self_work(study)
        queries = 1 if asks or what == "parameter_change" else tests
        solve = self._solve_work(study, queries)
        if solve is None:
            return None
        gradients = swept(len(study.split("validation")) if asks else tests)
        if what == "parameter_change":
            return gradients + solve
        return gradients + solve + swept(len(study.train), queries, parameters_of(study))

    def _self_work(self, study: Study) -> Work | None:
        """The work of self-influence: here a solve for each training image."""
        solve = self._solve_work(study, len(study.train))
        return None if solve is None else swept(len(study.train)) + solve

    def _solve_work(self, study: Study, vectors: int) -> Work | None:
        """The work of multiplying so many vectors by the inverse; ``None`` where it is not known."""
        return None

    def _influence(self, test_ids: Tensor) -> Answer:
        solved = self._solved("test", test_ids, f"{self.title}: solving for test images")
        return Answer(self._products(solved.vectors), solved.facts)

    def _against_validation(self) -> Answer:
        """Minus the influence on the mean validation loss, [N]: large for images that harm it."""

        def solve() -> Vectors:
            gradient = mean_gradient(self._query_model(), self.study_.loss, self._samples("validation"))
            solved = self.inverse_.apply({name: g[None] for name, g in gradient.items()})
            return {_FACTS: packed(solved.facts)} | solved.vectors

        with common("queries"):  # whichever training images are asked about
            found = piece("validation", solve)
        facts = unpacked(found.pop(_FACTS))
        home = next(self._query_model().parameters()).device
        return Answer(-self._products({name: one.to(home) for name, one in found.items()})[:, 0], facts)

    def _self_by_solving(self) -> Answer:
        """Self-influence with one solve for each training image, in blocks."""

        def own(gradients: Vectors, solved: Vectors) -> Vectors:
            products = [(g * solved[name]).reshape(len(g), -1).sum(1) for name, g in gradients.items()]
            return {"own": torch.stack(products).sum(0)}

        parts, facts = self._blocks("train", self._scored_ids, f"{self.title}: self-influence", own)
        return Answer(parts["own"] / len(self.study_.train), facts)

    def _parameter_change(self, change: DataChange) -> Mapping[str, Tensor] | Changed:
        solved = self.inverse_.apply(self._taken_away(self._train_model(), change))
        return Changed({name: moved[0] for name, moved in solved.vectors.items()}, solved.facts)

    def _taken_away(self, model: nn.Module, change: DataChange) -> Vectors:
        """Minus the gradient of what is added to the mean loss, at a model; stacked, R = 1."""
        samples = self._samples("train", change.terms()[0])
        return {name: g[None] for name, g in term_gradient(model, self.study_.loss, samples, change).items()}

    def _products(self, solved: Mapping[str, Tensor]) -> Tensor:
        """Inner products of all training gradients with solved queries, over N: ``[N, M]``."""
        samples = self._samples("train", None if self._rows is None else self._scored_ids)
        products = inner_products(self._train_model(), self.study_.loss, samples, solved)
        return products.div_(len(self.study_.train))

    def _solved(self, split: str, ids: Tensor, what: str) -> Solved:
        with common("queries"):  # whichever training images are asked about
            return Solved(*self._blocks(split, ids, what, lambda gradients, solved: solved))

    def _blocks(
        self, split: str, ids: Tensor, what: str, of: Callable[[Vectors, Vectors], Vectors]
    ) -> tuple[Vectors, dict[str, Any]]:
        """What becomes of some samples' gradients and of the same solved, block by block, which are a piece each.

        Args:
            split: name of a dataset.
            ids: of its samples.
            what: it is, for progress.
            of: gradients and solved vectors of a block -> what is wanted of them, a row for each sample.

        Returns:
            What is wanted, of all samples, and the facts of all solves.
        """
        model = self._query_model()
        row = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        home = next(model.parameters()).device

        def block(some: Tensor) -> Vectors:
            gradients = per_sample_gradients(model, self.study_.loss, self._samples(split, some))
            solved = self.inverse_.apply(gradients)
            return {_FACTS: packed(solved.facts)} | of(gradients, solved.vectors)

        blocks = enumerate(track(list(ids.split(max(1, self.solve_bytes // row))), what))
        found = [piece(f"block-{number}", partial(block, some)) for number, some in blocks]
        facts = worst([unpacked(one.pop(_FACTS)) for one in found])
        return {name: torch.cat([one[name] for one in found]).to(home) for name in found[0]}, facts
