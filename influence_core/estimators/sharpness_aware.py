"""Influence on a model trained with sharpness-aware minimisation, at its stationary point: SAMIF and SAMHIF."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from influence_core.curvature import (
    Operator,
    Product,
    Solution,
    Vectors,
    check_radius,
    flatten,
    gmres,
    largest_eigenvalue,
    mean_diagonal,
    operator,
    unflatten,
)
from influence_core.errors import InvalidInput
from influence_core.estimators.base import Estimator
from influence_core.estimators.inverse_hessian import ConjugateGradient, _check_count, _Iterative
from influence_core.estimators.perturbed import climbed, radius
from influence_core.gradients import inner_products, mean_gradient
from influence_core.study import Study

RESTART = 50
"""Dimension of the Krylov spaces of GMRES."""

_REASONS = {
    "label_influence": "it explains the labels that were trained on",
    "self_influence": "products of an image's gradients at different weights are no squares and can be negative",
}


@dataclass
class _SharpnessAware(_Iterative):
    """Training gradients at the perturbed weights, test gradients at the trained ones."""

    reasons: ClassVar[dict[str, str]] = _REASONS
    learned: ClassVar[tuple[str, ...]] = ("ascent_", "perturbed_", "rho_", "rho_from_")

    rho: float | None = None
    p: float = 2.0

    _self_influence = Estimator._self_influence

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_radius(self.rho, self.p)

    def _fit(self, study: Study) -> None:
        self.rho_, self.rho_from_ = radius(study, self.rho)
        self.perturbed_, self.ascent_ = climbed(study.model, study.loss, study.train, self.rho_, self.p)
        self.damping_ = 0.0
        if self.damping > 0:
            self.damping_ = self.damping * mean_diagonal(self.perturbed_, study.loss, study.train)
        self.solved_: dict[str, Any] = {}

    def _operator(self, study: Study) -> Operator:
        decay = study.weight_decay
        return operator(
            self.curvature, self.perturbed_, study.loss, study.train, weight_decay=decay, damping=self.damping_
        )

    def _products(self, solved: Mapping[str, Tensor]) -> Tensor:
        study = self.study_
        return inner_products(self.perturbed_, study.loss, study.train, solved) / len(study.train)

    def _removed(self, model: nn.Module, train_ids: Tensor) -> Vectors:
        """Gradient of what some images add to the mean loss, at a model; stacked, R = 1."""
        study = self.study_
        gradient = mean_gradient(model, study.loss, study.train.subset(train_ids))
        share = len(train_ids) / len(study.train)
        return {name: share * g[None] for name, g in gradient.items()}

    def _facts(self) -> dict[str, Any]:
        return super()._facts() | {"rho": self.rho_, "rho_from": self.rho_from_}


@dataclass
class SAMIF(_SharpnessAware, ConjugateGradient):
    r"""Influence for a SAM-trained model, fast version ("Attributing data for SAM", theorem 4.3, "SAM-HIF (fast)").

    With :math:`\hat\epsilon = \rho\,\nabla L(w^*)/\lVert\nabla L(w^*)\rVert` of the mean loss L and
    :math:`L^k = \ell_k/N`,

    .. math:: \mathrm{IF}(k) = -H_w^{-1}\nabla L^k(w^* + \hat\epsilon), \qquad
              H_w = \nabla^2 L(w^* + \hat\epsilon) + (\lambda + \delta) I, \qquad
              h(k, v) = -\nabla\ell_v(w^*)^\top \mathrm{IF}(k),

    in nats; positive is helpful, and removing images moves the weights by :math:`-\sum_k \mathrm{IF}(k)`. The matrix is
    symmetric, so conjugate gradients solve; the cost is that of ``ConjugateGradient``, with the training gradients and
    the curvature taken at the perturbed weights. That the perturbation itself moves with the weights and with the
    removed image is left out; ``SAMHIF`` has both. With rho = 0 this is ``ConjugateGradient``.

    Three things differ from the paper. Its lemma 4.2 drops :math:`\lambda w^*` from the condition of stationarity and
    keeps :math:`\lambda` in the Hessian; the condition is :math:`\nabla L(w + \hat\epsilon(w)) + \lambda w = 0`. Its
    influence score (theorem 4.8) is :math:`\nabla\ell_v^\top\mathrm{IF}`, minus the influence here, although its text
    calls a positive one valuable. And its tables compare edited models with retrained ones only: put the model
    *without* any edit beside them, which is often as near.

    To edit a network take far more damping than for scores: on the bundled digits the default destroys the model, and
    10 improves it. There is no self-influence: the gradients of an image at two different weights make no square.

    Args:
        damping: :math:`\delta` as a multiple of the mean diagonal of the Gauss-Newton matrix at the perturbed weights.
        curvature: "ggn" or "hessian"; a Hessian that curves down along a direction is refused.
        tolerance: on the residual relative to the gradient; below it a solve stops.
        max_iterations: products with H for each block of test images; a warning says if they were not enough.
        rho: radius of the ascent. By default that of the study's last checkpoint, which is 0 for a plain optimiser; for
            a study without a trajectory 0.05. The scores' ``meta`` says which. A study trained with ASAM or F-SAM,
            whose ascents are others, is refused without it.
        p: norm of the ascent's ball, above 1 and up to 2, or infinity. Training here uses 2.
    """

    name: ClassVar[str] = "samif"
    title: ClassVar[str] = "SAM influence (fast)"
    paper: ClassVar[str] = "Ren et al. 2025 (theorem 4.3)"
    cost: ClassVar[str] = "M x iterations x 3 N backward + 2 N backward"
    solves_each_query: ClassVar[bool] = True

    def _parameter_change(self, train_ids: Tensor) -> dict[str, Tensor]:
        self.solved_ = {}
        return {name: change[0] for name, change in self._solve(self._removed(self.perturbed_, train_ids)).items()}


@dataclass
class SAMHIF(_SharpnessAware):
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
        tolerance: on the residual relative to the right-hand side; below it a solve stops.
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
    cost: ClassVar[str] = "M x iterations x 6 N backward + 3 N backward"
    solves_each_query: ClassVar[bool] = True
    solve_bytes: ClassVar[int] = 4 * 2**20  # the Krylov space of each right-hand side has RESTART times its size
    learned: ClassVar[tuple[str, ...]] = ("response_", "scale_")

    variant: Literal["full", "paper"] = "full"
    max_iterations: int = 200
    max_response: float = 10.0
    seed: int = 0

    def _check_parameters(self) -> None:
        super()._check_parameters()
        _check_count("max_iterations", self.max_iterations)
        if self.variant not in ("full", "paper"):
            raise InvalidInput(f"variant is {self.variant!r}; choose 'full' or 'paper'")
        if not self.max_response > 0:
            raise InvalidInput(f"max_response is {self.max_response}; it bounds a positive number, so it is above 0")

    def _fit(self, study: Study) -> None:
        super()._fit(study)
        self.response_ = 0.0
        if self.ascent_.response > 0:
            still = operator(self.curvature, study.model, study.loss, study.train)
            largest = largest_eigenvalue(still, still.size, like=still.parameters[0], seed=self.seed)
            self.response_ = self.ascent_.response * largest
        if self.response_ > 1:
            warnings.warn(
                f"a change of the weights turns SAM's ascent {self.response_:.3g} times as far (rho ||H|| / ||g|| "
                f"with rho = {self.rho_:g} and the gradient of the whole training set), so that the influence holds "
                "for tiny changes only: compare SAMIF, and judge an edit beside no edit at all",
                stacklevel=2,
            )
        self.scale_ = 1.0 if self.response_ <= self.max_response else self.max_response / self.response_

    def _solve(self, vectors: Vectors) -> Vectors:
        still, sharp = self._matrices()
        shift = self.study_.weight_decay + self.damping_

        def adjoint(rows: Tensor) -> Tensor:
            image = sharp(rows)
            if self.variant == "paper":
                image += shift * rows
            if self.response_ > 0:
                image += still(self._derivative(image))
            return image if self.variant == "paper" else image + shift * rows

        solution = self._run(adjoint, flatten(vectors, sharp.shapes))
        self._note(solution)
        return unflatten(solution.x, sharp.shapes)

    def _products(self, solved: Mapping[str, Tensor]) -> Tensor:
        products = super()._products(solved)
        if self.variant == "paper" or self.response_ == 0:
            return products
        study, (_, sharp) = self.study_, self._matrices()
        second = unflatten(self._derivative(sharp(flatten(solved, sharp.shapes))), sharp.shapes)
        return products + inner_products(study.model, study.loss, study.train, second) / len(study.train)

    def _parameter_change(self, train_ids: Tensor) -> dict[str, Tensor]:
        self.solved_ = {}
        still, sharp = self._matrices()
        shift = self.study_.weight_decay + self.damping_
        right = flatten(self._removed(self.perturbed_, train_ids), sharp.shapes)
        if self.variant == "full" and self.response_ > 0:
            right += sharp(self._derivative(flatten(self._removed(self.study_.model, train_ids), sharp.shapes)))

        def direct(rows: Tensor) -> Tensor:
            moved = rows + self._derivative(still(rows)) if self.response_ > 0 else rows
            return sharp(moved) + shift * (moved if self.variant == "paper" else rows)

        solution = self._run(direct, right)
        self._note(solution)
        return {name: change[0] for name, change in unflatten(solution.x, sharp.shapes).items()}

    def _run(self, product: Product, right: Tensor) -> Solution:
        found = gmres(product, right, tolerance=self.tolerance, max_iterations=self.max_iterations, restart=RESTART)
        if not bool(found.converged.all()):
            warnings.warn(
                f"GMRES stopped after {found.iterations} products at a relative residual of "
                f"{float(found.residuals.max()):.2g}, above the tolerance of {self.tolerance:.2g}: raise "
                "max_iterations or damping, or use a model in float64",
                stacklevel=2,
            )
        return found

    def _matrices(self) -> tuple[Operator, Operator]:
        """H_0 and H_1, without weight decay and damping."""
        study = self.study_
        still, sharp = (operator(self.curvature, m, study.loss, study.train) for m in (study.model, self.perturbed_))
        return still, sharp

    def _derivative(self, rows: Tensor) -> Tensor:
        return self.scale_ * self.ascent_.derivative(rows)

    def _facts(self) -> dict[str, Any]:
        return super()._facts() | {"response": self.response_}
