"""Influence for a SAM-trained model whose perturbation moves too: SAMHIF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from influence_core.curvature import Vectors
from influence_core.curvature.inverses import MovingAscent, Solved, Variant, check_count
from influence_core.curvature.kept import KEPT_MIB
from influence_core.errors import InvalidInput
from influence_core.estimators.answers import Changed
from influence_core.estimators.changes import DataChange
from influence_core.estimators.influence_functions.lissa import POWER_STEPS
from influence_core.estimators.influence_functions.solving import TYPICAL_STEPS
from influence_core.estimators.sharpness.stationary import AtTheAscent
from influence_core.estimators.work import Work, multiplied, parameters_of, swept
from influence_core.gradients import inner_products
from influence_core.study import Study


@dataclass
class SAMHIF(AtTheAscent):
    r"""Influence for a SAM-trained model whose perturbation moves too ("Attributing data for SAM", theorem 4.5).

    What SAM training reaches is :math:`\nabla L(w + \hat\epsilon(w)) + \lambda w = 0`. Let g, :math:`H_0` be gradient
    and Hessian of the mean loss at w*, :math:`H_1` the Hessian at :math:`w^* + \hat\epsilon`, D the derivative of the
    ascent by the gradient (``influence_core.curvature.Ascent``), and :math:`C = d\hat\epsilon/dw = D H_0`; for p = 2,
    :math:`C v = \frac{\rho}{\lVert g\rVert}(I - \hat n\hat n^\top) H_0 v`. Up-weighting :math:`L^k = \ell_k/N` gives,
    exactly,

    .. math:: \mathrm{IF}(k) = -A^{-1} b_k, \qquad A = H_1 (I + C) + (\lambda + \delta) I, \qquad
              b_k = \nabla L^k(w^* + \hat\epsilon) + H_1 D\,\nabla L^k(w^*),

    and :math:`h(k, v) = -\nabla\ell_v(w^*)^\top\mathrm{IF}(k)` in nats; positive is helpful. A is not symmetric, so
    GMRES solves. For scores it solves :math:`A^\top u_v = \nabla\ell_v` once for each test image, all of them together,
    and then

    .. math:: h(k, v) = u_v\cdot\nabla L^k(w^* + \hat\epsilon) + (D H_1 u_v)\cdot\nabla L^k(w^*):

    two inner products per training image, one at each of the two weights, so one sweep at each. ``parameter_change``
    solves with A itself for the sum of :math:`b_k`.

    ``variant="paper"`` is theorem 4.5 as printed: :math:`A = (H_1 + (\lambda + \delta) I)(I + C)`, which lets the
    weight decay act through C, where it does not belong, and :math:`b_k` without its second term, which the paper
    drops "for efficiency". That term nearly cancels C: as :math:`H_0\,\mathrm{IF} \approx -\nabla L^k`, the
    perturbation moves hardly at all. With C alone the edit of a small logistic regression is *worse* than that of
    ``SAMIF``, which leaves out both; the order of the scores suffers less. The cost is the same.

    The paper's algorithm 4 is not followed: its series :math:`I_{j+1} = I_j - \delta I_j + H I_j + T` has the wrong
    sign of H, runs one step (an "if" for a "while"), its result is not negated, and its :math:`C` lacks rho and signs.
    The sign of the influence score and the lack of a control without an edit are as said at ``SAMIF``.

    Expect trouble where the gradient of the whole training set is small beside the curvature, as it is for networks
    that fit their data: C is about :math:`\rho\lVert H_0\rVert/\lVert g\rVert` (``response`` in ``meta``). Above 1 the
    ascent turns further than the weights move, the linearisation holds for tiny changes only, and a warning says so;
    above ``max_response`` D is scaled down, as if :math:`\lVert g\rVert` had a floor. Training on mini-batches takes
    the ascent from each batch's own, larger gradient, which this does not model.

    Args:
        damping: :math:`\delta` as a multiple of the mean diagonal of the Gauss-Newton matrix at the perturbed weights.
        curvature: "ggn" or "hessian", for both :math:`H_0` and :math:`H_1`; GMRES takes an indefinite one as well.
        tolerance: on the residual relative to the right-hand side; below it a solve stops. Going on to 1e-4 takes more
            than half as long again and predicts retraining on the digits no better (``tests.benchmarks.lds``).
        rho: as for ``SAMIF``.
        p: as for ``SAMIF``; with infinity C = 0, and this is ``SAMIF`` around another perturbation.
        variant: "full" or "paper".
        max_iterations: products with A for each block of test images, each of one with :math:`H_0` and one with
            :math:`H_1`; a warning says if they were not enough.
        max_response: largest :math:`\rho\lVert H_0\rVert/\lVert g\rVert` that is not scaled down.
        seed: of the power iteration's start.
    """

    name: ClassVar[str] = "samhif"
    title: ClassVar[str] = "SAM influence (Hessian-based)"
    paper: ClassVar[str] = "Ren et al. 2025 (theorem 4.5)"
    good_for: ClassVar[str] = "Nearest to retraining for small convex models trained with SAM; the slowest of all"
    cost: ClassVar[str] = "M x iterations x 6 N backward + 3 N backward"
    solve_bytes: ClassVar[int] = 4 * 2**20  # the Krylov space of each right-hand side has RESTART times its size

    tolerance: float | None = 0.01
    variant: Variant = "full"
    max_iterations: int = 200
    max_response: float = 10.0
    seed: int = 0

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_count("max_iterations", self.max_iterations)
        if not self.max_response > 0:
            raise InvalidInput(f"max_response is {self.max_response}; it bounds a positive number, so it is above 0")

    def _fit_inverse(self, study: Study) -> MovingAscent:
        return MovingAscent.fit(
            study.model,
            self.perturbed_,
            self.ascent_,
            study.loss,
            study.train,
            damping=self.damping_,
            weight_decay=study.weight_decay,
            curvature=self.curvature,
            variant=self.variant,
            tolerance=self._tolerance(),
            max_iterations=self.max_iterations,
            max_response=self.max_response,
            seed=self.seed,
        )

    def _fit_work(self, study: Study) -> Work | None:
        fitted = super()._fit_work(study)
        return None if fitted is None else fitted + multiplied(study, POWER_STEPS, kept=self.curvature == "ggn")

    def _solve_work(self, study: Study, vectors: int) -> Work:
        steps = min(TYPICAL_STEPS, self.max_iterations)
        second = multiplied(study, 1, vectors, kept=False) + swept(len(study.train), vectors, parameters_of(study))
        kept = self.curvature == "ggn"
        return 2 * multiplied(study, steps, vectors, kept=kept, memory=KEPT_MIB / 2) + second

    def _moving(self) -> MovingAscent:
        assert isinstance(self.inverse_, MovingAscent)
        return self.inverse_

    def _products(self, solved: Mapping[str, Tensor]) -> Tensor:
        products = super()._products(solved)
        if not self._moving().second_term:
            return products
        study, second = self.study_, self._moving().through_the_ascent(solved)
        return products.add_(inner_products(study.model, study.loss, self._scored, second), alpha=1 / len(study.train))

    def _changed_at(self) -> list[nn.Module]:
        return [self.perturbed_, self.study_.model] if self._moving().second_term else [self.perturbed_]

    def _moved(self, inverse: MovingAscent, rows: list[Vectors]) -> Solved:
        return inverse.direct(*rows) if len(rows) > 1 else inverse.direct(rows[0], {})

    def _parameter_change(self, change: DataChange) -> Changed:
        at_ascent = self._taken_away(self.perturbed_, change)
        at_weights = self._taken_away(self.study_.model, change) if self._moving().second_term else {}
        solved = self._moving().direct(at_ascent, at_weights)
        return Changed({name: moved[0] for name, moved in solved.vectors.items()}, solved.facts)
