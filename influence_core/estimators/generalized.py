"""Partial edits of the weights after a removal: GIF, FIF and PIF."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from influence_core.curvature import Block, Hessian, LeastSquares, flatten, solve_lsqr, solve_series, unflatten
from influence_core.errors import InvalidInput
from influence_core.estimators.base import Estimator
from influence_core.estimators.edit_scale import validated_scale
from influence_core.estimators.selectors import SELECTORS, Masks, Selector, choose
from influence_core.gradients import mean_gradient, select
from influence_core.study import Study

_NO_SCORES = "it changes chosen weights for a whole group at once, which is no sum over images"


@dataclass
class Partial(Estimator):
    r"""A Newton step on the loss that is left, in chosen weights only (Lyu et al. 2023).

    With the images U removed from S, the loss that is left is
    :math:`\frac{1}{|S|}\sum_{S\setminus U}\ell_n + \frac\lambda2\lVert\theta\rVert^2`: the weight of an image that
    stays is what it was, as for all ``parameter_change`` here. Where the training loss is at a minimum, the gradient
    of what is left is minus that of the mean loss g of U, times :math:`|U|/|S|`. Dividing by
    :math:`|S\setminus U|/|S|`, the step solves

    .. math:: H\Delta \approx r g, \qquad r = \frac{|U|}{|S|-|U|}, \qquad
              H = \nabla^2\bar\ell_{S\setminus U} + (1 + r)\lambda I

    in the sense of each class below, J being the chosen weights and :math:`H_J` their columns. The change is added, and
    is right for removal: eq. 6 of the paper has the sign of up-weighting, eq. 9 lost it, and the series of eq. 11
    converges to :math:`+H^{-1}g`. For a quadratic loss one step is exact, for then its gradient is linear, and r and H
    (of the images that stay, not of all) make it that of the loss that is left.

    Args:
        selector: "top_outputs", "top_gradients", "threshold" or "random" (see ``choose`` in ``selectors.py``), or a
            dict parameter name -> boolean mask of its shape.
        ratio: share of the parameters of each Linear and Conv layer, for a selector by name.
        solver: "least_squares" for reorthogonalised LSQR, or "neumann" for the paper's truncated series.
        scale: factor of the step, or "validation": the one of 1/16, 1/8, ..., 256 with the best ``modified_f1``, of the
            accuracy on the removed images and on the validation images whose class is still trained on; the smallest
            of equals. The paper and its code choose it on the test set. A warning says if no edit does better than
            none.
        damping: :math:`\delta` of a penalty :math:`\delta^2\lVert\Delta\rVert^2`, a curvature.
        tolerance: for least squares, on the gradient of what is minimised relative to that at 0; for the series, on its
            last change for each chosen weight, absolute.
        max_iterations: of two Hessian products each; for the series, of the one that counts. Few iterations of least
            squares leave the directions of small curvature alone, as damping would.
        step: of the series' divisor M, see ``curvature.solve_series``.
        seed: of random choices of weights.
    """

    reasons: ClassVar[dict[str, str]] = dict.fromkeys(
        ("influence", "self_influence", "mislabel_scores", "label_influence"), _NO_SCORES
    )
    learned: ClassVar[tuple[str, ...]] = ("edit_",)
    exempt: ClassVar[dict[str, str]] = {
        "parameter_change_of_a_group": "the curvature is that of the images that stay, which are others for each group"
    }
    needs: ClassVar[frozenset[str]] = frozenset({"validation"})
    cost: ClassVar[str] = "iterations x 2 x 3 N backward"

    selector: Selector | Mapping[str, Tensor] = "top_outputs"
    ratio: float = 0.1
    solver: Literal["least_squares", "neumann"] = "least_squares"
    scale: float | Literal["validation"] = "validation"
    damping: float = 0.0
    tolerance: float = 1e-4
    max_iterations: int = 20
    step: float = 0.5
    seed: int = 0

    def _check_parameters(self) -> None:
        if isinstance(self.selector, Mapping):
            self.selector = Masks(self.selector)
        elif self.selector not in SELECTORS:
            known = ", ".join(map(repr, SELECTORS))
            raise InvalidInput(f"selector is {self.selector!r}; choose one of {known}, or give boolean masks by name")
        if not 0 < self.ratio <= 1:
            raise InvalidInput(f"ratio is {self.ratio}; it is the share of a layer to change, above 0 and at most 1")
        if self.solver not in ("least_squares", "neumann"):
            raise InvalidInput(f"solver is {self.solver!r}; choose 'least_squares' or 'neumann'")
        if isinstance(self.scale, str) and self.scale != "validation":
            raise InvalidInput(f"scale is {self.scale!r}; give a number, or 'validation' to choose one")
        if not isinstance(self.scale, str) and not 0 < self.scale < float("inf"):
            raise InvalidInput(f"scale is {self.scale}; it is a factor of the step, above 0")
        if not 0 <= self.damping < float("inf"):
            raise InvalidInput(f"damping is {self.damping}; it is a curvature, so 0 or more")
        if not self.tolerance >= 0 or self.max_iterations < 1 or not 0 < self.step < float("inf"):
            raise InvalidInput(
                f"tolerance={self.tolerance}, max_iterations={self.max_iterations}, step={self.step}: a tolerance of 0 "
                "or more, at least one iteration and a step above 0 are needed"
            )

    def _check_needs(self, study: Study) -> None:
        if isinstance(self.scale, str):  # a scale that is given needs nothing
            super()._check_needs(study)

    def _fit(self, study: Study) -> None:
        if isinstance(self.selector, Masks):
            select(study.model, self.selector)  # refuses masks that do not fit
        self.edit_: dict[str, Any] = {}

    @abstractmethod
    def _block(self, product: Hessian, chosen: Tensor) -> Block:
        """The part of the Hessian that is inverted."""

    def _parameter_change(self, train_ids: Tensor) -> dict[str, Tensor]:
        study, train_ids = self.study_, train_ids.sort().values
        stays = torch.ones(len(study.train), dtype=torch.bool)
        stays[train_ids] = False
        if not bool(stays.any()):
            raise InvalidInput(f"all {len(train_ids)} training images are to be removed; the curvature needs some left")
        odds = len(train_ids) / int(stays.sum())
        removed = study.train.subset(train_ids)
        masks = self._masks(removed)
        product = Hessian(
            study.model,
            study.loss,
            study.train.subset(stays.nonzero().flatten()),
            weight_decay=study.weight_decay * (1 + odds),
        )
        chosen = self._row(masks, product)
        gradient = mean_gradient(study.model, study.loss, removed)
        target = flatten({name: g[None] for name, g in gradient.items()}, product.shapes)[0]
        found = self._solved(self._block(product, chosen), target)
        whole = unflatten((odds * found.x * chosen)[None], product.shapes)
        change = {name: whole[name][0] for name in masks}
        scale, judged = self._scaled(change, train_ids)
        self.edit_ = {
            "removed": len(train_ids),
            "changed": int(chosen.sum()),
            "parameters": product.size,
            "residual": found.residual,
            "iterations": found.iterations,
            "converged": found.converged,
            "divisor": found.divisor,
            "scale": scale,
        } | judged
        return {name: scale * delta for name, delta in change.items()}

    def _masks(self, removed: Any) -> dict[str, Tensor]:
        study = self.study_
        if isinstance(self.selector, Masks):
            selection = select(study.model, self.selector)
            return {
                name: selection.masks.get(name, torch.ones_like(p, dtype=torch.bool))
                for name, p in selection.parameters.items()
            }
        return choose(str(self.selector), self.ratio, study.model, study.loss, removed, self.seed)

    def _row(self, masks: Mapping[str, Tensor], product: Hessian) -> Tensor:
        """The masks as one boolean row, in the order of the product."""
        parts = zip(product.shapes, product.parameters, strict=True)
        whole = {name: masks.get(name, torch.zeros_like(p, dtype=torch.bool)) for name, p in parts}
        return torch.cat([mask.flatten().to(product.parameters[0].device) for mask in whole.values()])

    def _solved(self, block: Block, target: Tensor) -> LeastSquares:
        solve = partial(solve_series, step=self.step) if self.solver == "neumann" else solve_lsqr
        most = self.max_iterations
        return solve(block, target, damping=self.damping, tolerance=self.tolerance, max_iterations=most)

    def _scaled(self, change: dict[str, Tensor], removed: Tensor) -> tuple[float, dict[str, Any]]:
        """The factor of the step, and how it was judged."""
        if not isinstance(self.scale, str):
            return self.scale, {}
        scale, best, before = validated_scale(self.study_, change, removed)
        if best < before:
            warnings.warn(
                f"{self.title}: no edit does better on the validation set: at the best scale of {scale:g} the modified "
                f"F1 is {best:.3f}, without an edit {before:.3f}",
                stacklevel=2,
            )
        return scale, {"f1": best, "f1_without_edit": before}

    def _facts(self) -> dict[str, Any]:
        return {"damping": self.damping, "weight_decay": self.study_.weight_decay, **self.edit_}


@dataclass
class GIF(Partial):
    r"""Generalized influence functions (Lyu et al. 2023, eq. 6 and 9): the least gradient that is left.

    .. math:: \Delta_J = r (H_J^\top H_J)^{-1} H_J^\top g

    brings the *whole* gradient of the loss that is left, also along the weights that stay, as near to zero as the
    chosen weights can: :math:`\min\lVert H_J\Delta - r g\rVert`. That is not the least loss. With the other weights
    held fixed the least loss has a zero gradient along J alone, which is ``FIF``: for linear regression FIF reaches
    that optimum exactly and GIF does not, though section 2.4 and Figure 2 of the paper say the opposite (a notebook of
    the authors for that figure adds another method's step where it plots FIF). On networks which of the three does best
    changes from study to study.

    Equation 12, the paper's series, inverts :math:`H_J^\top H_J`, whose condition is squared: truncated after 200 steps
    it was 2.5 to 2500 times too short, which factors of 28 to 150 then made up for. The default is LSQR, cut short. A
    network's Hessian curves down along some directions; least squares does not mind, but a Newton step goes uphill
    there. The step is short for a whole class, for its gradient is small where it is fitted well: hence the scale.

    The paper's: ``GIF(solver="neumann", max_iterations=200, scale="validation")``, with ``tolerance=1e-4, step=0.5``.
    Other arguments are those of ``Partial``. ``parameter_change`` names the chosen weights only.

    Example:
        >>> import influence_core as ic
        >>> study = ic.demo.digits()
        >>> gif = ic.estimators.GIF(max_iterations=2, scale=1.0).fit(study)
        >>> edited = study.edited(gif.parameter_change([3, 17]))
    """

    name: ClassVar[str] = "gif"
    title: ClassVar[str] = "GIF"
    paper: ClassVar[str] = "Lyu et al. 2023"

    def _block(self, product: Hessian, chosen: Tensor) -> Block:
        return Block(product, chosen)


@dataclass
class FIF(Partial):
    r"""Frozen influence functions (Lyu et al. 2023, eq. 10): the classical step with all other weights frozen.

    .. math:: \Delta_J = r H_{J\times J}^{-1} g_J

    is the Newton step to the least loss that the chosen weights can reach; exact for linear regression. The mask lies
    between two products with H as well: :math:`H_{J\times J}^2 v` is not the block of :math:`H^2`. Where the block is
    nearly singular, an indefinite Hessian's can be, the step blows up: fewer ``max_iterations``, or ``damping``.

    The paper's: ``FIF(solver="neumann", max_iterations=200)``. Arguments are those of ``Partial``.
    """

    name: ClassVar[str] = "fif"
    title: ClassVar[str] = "FIF"
    paper: ClassVar[str] = "Lyu et al. 2023, after Koh and Liang 2017"

    def _block(self, product: Hessian, chosen: Tensor) -> Block:
        return Block(product, chosen, chosen)


@dataclass
class PIF(Partial):
    r"""Projected influence functions (Lyu et al. 2023, section 2.4): the step in all weights, of which some are taken.

    .. math:: \Delta_J = r (H^{-1} g)_J

    The rest of the step is thrown away, so that nothing makes up for it: for linear regression neither the least loss
    nor the least gradient, and on networks often hardly any change at a small ratio. At ``ratio=1`` the three differ
    only in the normalisation layers, which are never selected. (The authors' script divides PIF by 10 besides.)

    The paper's: ``PIF(solver="neumann", max_iterations=200)``. Arguments are those of ``Partial``.
    """

    name: ClassVar[str] = "pif"
    title: ClassVar[str] = "PIF"
    paper: ClassVar[str] = "Lyu et al. 2023, after Schioppa et al. 2022"

    def _block(self, product: Hessian, chosen: Tensor) -> Block:
        return Block(product, torch.ones_like(chosen))
