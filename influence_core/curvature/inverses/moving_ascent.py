r"""The inverse curvature of a model trained with SAM, whose ascent moves with the weights.

With :math:`H_0` and :math:`H_1` the curvature at the weights and at the end of the ascent, D the ascent's derivative by
the gradient and :math:`C = D H_0`, the matrix is :math:`A = H_1 (I + C) + (\lambda + \delta) I`. It is not symmetric:
``apply`` multiplies by the inverse of its transpose, which takes a test gradient, ``direct`` by that of A itself, which
takes what was removed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from influence_core.curvature.ascent import Ascent
from influence_core.curvature.gmres import gmres
from influence_core.curvature.inverses.base import InverseCurvature, Solved, check_solve
from influence_core.curvature.inverses.conjugate_gradients import not_converged
from influence_core.curvature.inverses.streamed import absolute_damping
from influence_core.curvature.kept import KEPT_MIB
from influence_core.curvature.lanczos import largest_eigenvalue
from influence_core.curvature.operators import CurvatureName, Operator, operator
from influence_core.curvature.solution import Product
from influence_core.curvature.vectors import Vectors, flatten, unflatten
from influence_core.gradients import Data
from influence_core.losses import Loss

RESTART = 50
"""Dimension of the Krylov spaces of GMRES."""

Variant = Literal["full", "paper"]


@dataclass(frozen=True)
class MovingAscent(InverseCurvature):
    r"""Solves by GMRES, products with :math:`H_0` and :math:`H_1` streamed over the data.

    Attributes:
        model: at the weights w*, in eval mode.
        perturbed: the same at the end of the ascent.
        ascent: from w*.
        loss: one loss per sample.
        data: N samples.
        curvature: of both matrices: "ggn" or "hessian".
        weight_decay: :math:`\lambda`.
        damping: :math:`\delta`, absolute.
        response: :math:`\rho\lVert H_0\rVert/\lVert g\rVert`: how far the ascent turns for a change of the weights.
        scale: what D is multiplied by, below 1 where the response is above its bound.
        variant: "full", or "paper" for the matrix :math:`(H_1 + (\lambda + \delta) I)(I + C)` as printed.
        tolerance: on the relative residual.
        max_iterations: products with A for each block of right-hand sides.
    """

    name: ClassVar[str] = "movingascent"

    model: nn.Module
    perturbed: nn.Module
    ascent: Ascent
    loss: Loss
    data: Data
    curvature: CurvatureName
    weight_decay: float
    damping: float
    response: float
    scale: float
    variant: Variant
    tolerance: float
    max_iterations: int

    @classmethod
    def fit(
        cls,
        model: nn.Module,
        perturbed: nn.Module,
        ascent: Ascent,
        loss: Loss,
        data: Data,
        *,
        damping: float = 0.1,
        weight_decay: float = 0.0,
        curvature: CurvatureName = "ggn",
        variant: Variant = "full",
        tolerance: float = 1e-4,
        max_iterations: int = 200,
        max_response: float = 10.0,
        seed: int = 0,
    ) -> Self:
        """Settle damping, and how far the ascent turns.

        Args:
            model: at the weights w*, in eval mode.
            perturbed: the same at the end of the ascent.
            ascent: from w*.
            loss: one loss per sample.
            data: N samples.
            damping: relative to the mean diagonal of the Gauss-Newton matrix at the perturbed weights.
            weight_decay: lambda.
            curvature: "ggn" or "hessian".
            variant: "full" or "paper".
            tolerance: on the relative residual.
            max_iterations: products with A.
            max_response: largest response that is not scaled down.
            seed: of the power iteration's start.

        Returns:
            The inverse.
        """
        check_solve(damping, tolerance)
        absolute = absolute_damping(damping, weight_decay, perturbed, loss, data)
        response = 0.0
        if ascent.response > 0:
            still = operator(curvature, model, loss, data).kept()
            response = ascent.response * largest_eigenvalue(still, still.size, like=still.parameters[0], seed=seed)
        made = cls(
            model=model,
            perturbed=perturbed,
            ascent=ascent,
            loss=loss,
            data=data,
            curvature=curvature,
            weight_decay=weight_decay,
            damping=absolute,
            response=response,
            scale=1.0 if response <= max_response else max_response / response,
            variant=variant,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        for sentence in made.sentences():
            warnings.warn(sentence, stacklevel=2)
        return made

    def apply(self, vectors: Mapping[str, Tensor]) -> Solved:
        r"""Solve :math:`A^\top u = v` for R right-hand sides."""
        still, sharp = self._matrices()
        shift = self.weight_decay + self.damping

        def adjoint(rows: Tensor) -> Tensor:
            image = sharp(rows)
            if self.variant == "paper":
                image += shift * rows
            if self.response > 0:
                image += still(self.derivative(image))
            return image if self.variant == "paper" else image + shift * rows

        return self._solved(adjoint, flatten(vectors, sharp.shapes), sharp)

    def direct(self, at_ascent: Mapping[str, Tensor], at_weights: Mapping[str, Tensor]) -> Solved:
        r"""Solve :math:`A x = b + H_1 D b_0`, the second term in the full variant only.

        Args:
            at_ascent: b, gradients at the perturbed weights, parameter name -> ``[R, *shape]``.
            at_weights: :math:`b_0`, the same at the weights.

        Returns:
            x.
        """
        still, sharp = self._matrices()
        shift = self.weight_decay + self.damping
        right = flatten(at_ascent, sharp.shapes)
        if self.second_term:
            right = right + sharp(self.derivative(flatten(at_weights, sharp.shapes)))

        def product(rows: Tensor) -> Tensor:
            moved = rows + self.derivative(still(rows)) if self.response > 0 else rows
            return sharp(moved) + shift * (moved if self.variant == "paper" else rows)

        return self._solved(product, right, sharp)

    def damped(self, damping: float) -> Self:
        """The same with another damping, absolute."""
        return replace(self, damping=damping)

    @property
    def second_term(self) -> bool:
        """Whether a training image also acts through the ascent that it takes part in."""
        return self.variant == "full" and self.response > 0

    def through_the_ascent(self, vectors: Mapping[str, Tensor]) -> Vectors:
        r""":math:`D H_1 u`: what the gradients at the weights themselves are multiplied with."""
        sharp = self._matrix(self.perturbed)  # for one product nothing needs to be kept
        return unflatten(self.derivative(sharp(flatten(vectors, sharp.shapes))), sharp.shapes)

    def derivative(self, rows: Tensor) -> Tensor:
        """D times R vectors, ``[R, P]``, scaled down where the response is too large."""
        return self.scale * self.ascent.derivative(rows)

    def facts(self) -> dict[str, Any]:
        """Damping, weight decay and response, with a warning where that is above 1."""
        found = {"damping": self.damping, "weight_decay": self.weight_decay, "response": self.response}
        return found | ({"warnings": self.sentences()} if self.sentences() else {})

    def sentences(self) -> list[str]:
        """What is to be said of the response."""
        if self.response <= 1:
            return []
        return [
            f"a change of the weights turns SAM's ascent {self.response:.3g} times as far (rho ||H|| / ||g|| with "
            f"rho = {self.ascent.rho:g} and the gradient of the whole training set), so that the influence holds for "
            "tiny changes only: compare SAMIF, and judge an edit beside no edit at all"
        ]

    def _matrices(self) -> tuple[Operator, Operator]:
        """H_0 and H_1, without weight decay and damping."""
        still, sharp = self._matrix(self.model), self._matrix(self.perturbed)
        return (still.kept(KEPT_MIB / 2) if self.response > 0 else still), sharp.kept(KEPT_MIB / 2)

    def _matrix(self, model: nn.Module) -> Operator:
        return operator(self.curvature, model, self.loss, self.data)

    def _solved(self, product: Product, right: Tensor, matrix: Operator) -> Solved:
        found = gmres(product, right, tolerance=self.tolerance, max_iterations=self.max_iterations, restart=RESTART)
        facts: dict[str, Any] = {
            "residual": float(found.residuals.max()),
            "iterations": found.iterations,
            "converged": bool(found.converged.all()),
        }
        if not facts["converged"]:
            facts["warnings"] = [not_converged("GMRES", found.iterations, facts, self.tolerance)]
            warnings.warn(facts["warnings"][0], stacklevel=3)
        return Solved(unflatten(found.x, matrix.shapes), facts)
