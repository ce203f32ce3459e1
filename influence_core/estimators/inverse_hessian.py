"""Influence functions by iterative solvers: ConjugateGradient and LiSSA."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from influence_core.curvature import (
    Kind,
    Operator,
    Product,
    Solution,
    Vectors,
    conjugate_gradient,
    flatten,
    largest_eigenvalue,
    mean_diagonal,
    neumann,
    operator,
    unflatten,
)
from influence_core.errors import InvalidInput
from influence_core.estimators.hessian_based import HessianBased, check_damping
from influence_core.study import Study


@dataclass
class _Iterative(HessianBased):
    """Solves with products over all training images, so that nothing depends on batches.

    Mislabel scores are minus the influence on the mean loss of the validation set: one solve, where self-influence
    would take N.
    """

    learned: ClassVar[tuple[str, ...]] = ("damping_", "solved_")

    damping: float = 0.1
    curvature: Kind = "ggn"
    tolerance: float = 1e-4

    def _check_parameters(self) -> None:
        check_damping(self.damping)
        if self.curvature not in ("ggn", "hessian"):
            raise InvalidInput(f"curvature is {self.curvature!r}; choose 'ggn' or 'hessian'")
        if not self.tolerance >= 0:
            raise InvalidInput(f"tolerance is {self.tolerance}; it is a relative residual, so 0 or more")

    def _fit(self, study: Study) -> None:
        self.damping_ = 0.0
        if self.damping > 0:
            self.damping_ = self.damping * mean_diagonal(study.model, study.loss, study.train)
        self.solved_: dict[str, Any] = {}

    def _operator(self, study: Study) -> Operator:
        decay = study.weight_decay
        return operator(self.curvature, study.model, study.loss, study.train, weight_decay=decay, damping=self.damping_)

    def _solve(self, vectors: Vectors) -> Vectors:
        product = self._operator(self.study_)
        solution = self._run(product, flatten(vectors, product.shapes))
        self._note(solution)
        return unflatten(solution.x, product.shapes)

    def _note(self, solution: Solution) -> None:
        """Keep the worst of all blocks that are solved for one result."""
        before = self.solved_
        self.solved_ = {
            "residual": max(float(solution.residuals.max()), before.get("residual", 0.0)),
            "iterations": max(solution.iterations, before.get("iterations", 0)),
            "converged": bool(solution.converged.all()) and before.get("converged", True),
        }

    @abstractmethod
    def _run(self, product: Product, right: Tensor) -> Solution:
        """Solve for rows [R, P]."""

    def _influence(self, test_ids: Tensor) -> Tensor:
        self.solved_ = {}
        return super()._influence(test_ids)

    def _self_influence(self) -> Tensor:
        self.solved_ = {}
        return self._self_by_solving()

    def _mislabel_scores(self) -> Tensor:
        self.solved_ = {}
        return self._against_validation()

    def _parameter_change(self, train_ids: Tensor) -> dict[str, Tensor]:
        self.solved_ = {}
        return super()._parameter_change(train_ids)

    def _facts(self) -> dict[str, Any]:
        return {"damping": self.damping_, "weight_decay": self.study_.weight_decay, **self.solved_}


@dataclass
class ConjugateGradient(_Iterative):
    r"""Influence functions by conjugate gradients (Koh and Liang 2017, arXiv:1703.04730, eq. 2 and section 3).

    .. math:: h(k, v) = \tfrac1N \nabla\ell_v^\top (H + (\lambda + \delta) I)^{-1} \nabla\ell_k

    is the change of the test loss, in nats, when the training image is removed: positive is helpful, which turns the
    sign of the paper's :math:`I_\text{up,loss}`. H is the Gauss-Newton matrix (positive semi-definite) or the Hessian,
    :math:`\lambda` the study's weight decay, :math:`\delta` the damping. Exact up to the reported residual for this
    matrix; that the loss is at a minimum and the change is small remains an assumption.

    Each test image of a block keeps up to 64 vectors of the model's size, together at most 1 GiB: see
    ``influence_core.curvature.conjugate_gradient``. The smaller the damping, the more products a solve takes: on the
    bundled digits, to a residual of 1e-4, about 40 with damping 1 and 90 with 0.1.

    Mislabel scores need a validation set: minus the influence on its mean loss. ``self_influence`` takes N solves, so
    N times as long as the influence on one test image: for a few thousand images of a small model at most.

    Args:
        damping: :math:`\delta` as a multiple of the mean diagonal of the Gauss-Newton matrix.
        curvature: "ggn" or "hessian"; a Hessian that curves down along a direction is refused.
        tolerance: on the residual relative to the gradient; below it a solve stops.
        max_iterations: products with H for each block of test images; a warning says if they were not enough.
    """

    name: ClassVar[str] = "conjugategradient"
    title: ClassVar[str] = "Conjugate gradients"
    paper: ClassVar[str] = "Koh and Liang 2017"
    cost: ClassVar[str] = "M x iterations x 3 N backward + N backward; self-influence N x iterations x 3 N"
    solves_each_query: ClassVar[bool] = True

    max_iterations: int = 500

    def _check_parameters(self) -> None:
        super()._check_parameters()
        _check_count("max_iterations", self.max_iterations)

    def _run(self, product: Product, right: Tensor) -> Solution:
        found = conjugate_gradient(product, right, tolerance=self.tolerance, max_iterations=self.max_iterations)
        if bool(found.negative_curvature.any()):
            raise InvalidInput(
                f"the {self.curvature} plus damping {self.damping_:.3g} curves down along a direction of the search, "
                "so that it has no minimum: raise the damping, or use curvature='ggn'"
            )
        if not bool(found.converged.all()):
            warnings.warn(
                f"conjugate gradients stopped after {found.iterations} products at a relative residual of "
                f"{float(found.residuals.max()):.2g}, above the tolerance of {self.tolerance:.2g}: raise "
                "max_iterations or damping, or use a model in float64",
                stacklevel=2,
            )
        return found


@dataclass
class LiSSA(_Iterative):
    r"""Influence functions by a truncated, damped Neumann series (Agarwal et al. 2017, arXiv:1602.03943, section 3).

    .. math:: x_{j+1} = x_j + (\nabla\ell_v - (H + (\lambda + \delta) I) x_j) / s, \qquad
              h(k, v) = \tfrac1N x_J^\top \nabla\ell_k

    The limit is that of ``ConjugateGradient``, in nats, positive helpful. After J steps a direction of curvature
    :math:`\mu` is inverted as if about :math:`s / (J + 1)` had been added to it: at the ten steps with s = 10 that
    papers report it is almost the identity. The scale s is therefore 1.2 times the largest eigenvalue, found by power
    iteration, and the residual that was left is in the scores. Every product runs over all training images; drawing a
    mini-batch for each step, as the paper does, would make the scores depend on the draw.

    Mislabel scores need a validation set: minus the influence on its mean loss. ``self_influence`` takes N solves.

    Args:
        damping: :math:`\delta` as a multiple of the mean diagonal of the Gauss-Newton matrix.
        curvature: "ggn" or "hessian"; with a Hessian that curves down the series diverges, which is refused.
        tolerance: on the relative residual; below it the series stops early.
        steps: J.
        seed: of the power iteration's start.
    """

    name: ClassVar[str] = "lissa"
    title: ClassVar[str] = "LiSSA"
    paper: ClassVar[str] = "Agarwal et al. 2017; Koh and Liang 2017"
    cost: ClassVar[str] = "M x steps x 3 N backward + N backward; self-influence N x steps x 3 N"
    solves_each_query: ClassVar[bool] = True
    learned: ClassVar[tuple[str, ...]] = ("scale_",)

    steps: int = 100
    seed: int = 0

    def _check_parameters(self) -> None:
        super()._check_parameters()
        _check_count("steps", self.steps)

    def _fit(self, study: Study) -> None:
        super()._fit(study)
        product = self._operator(study)
        largest = largest_eigenvalue(product, product.size, like=product.parameters[0], seed=self.seed)
        self.scale_ = 1.2 * largest

    def _run(self, product: Product, right: Tensor) -> Solution:
        return neumann(product, right, scale=self.scale_, tolerance=self.tolerance, max_iterations=self.steps)

    def _facts(self) -> dict[str, Any]:
        return super()._facts() | {"scale": self.scale_}


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise InvalidInput(f"{name} is {value}; at least 1 is needed")
