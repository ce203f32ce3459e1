"""What GIF, FIF and PIF share: a Newton step in chosen weights on the loss that is left."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from influence_core.curvature import Columns, Hessian, LeastSquares, flatten, solve_lsqr, solve_series, unflatten
from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput
from influence_core.estimators.answers import Changed
from influence_core.estimators.base import Estimator
from influence_core.estimators.changes import DataChange, Factored, Weighted, term_gradient
from influence_core.estimators.edits.scale import SCALES, validated_scale
from influence_core.estimators.edits.selectors import Masks, Selector, choose
from influence_core.estimators.work import Work, multiplied, swept
from influence_core.gradients import select
from influence_core.study import Study

_NO_SCORES = "it changes chosen weights for a whole group at once, which is no sum over images"


@dataclass
class PartialEdit(Estimator):
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

    New labels and weights are the same with another loss that is left: :math:`r g` is minus the sum of the gradients
    that are added, over the n images that stay, and H is that of their new losses,
    :math:`\frac1n\sum_i w_i\nabla^2\ell_i + \frac{|S|}n\lambda I` with their new weights. For a quadratic loss the step
    is exact for any mix of the three. Selectors look at the images concerned, "top_gradients" at the sum that is added.

    Args:
        selector: "top_outputs", "top_gradients", "threshold" or "random" (see ``choose`` in ``selectors.py``), or a
            dict parameter name -> boolean mask of its shape.
        ratio: share of the parameters of each Linear and Conv layer, for a selector by name.
        solver: "least_squares" for reorthogonalised LSQR, or "neumann" for the paper's truncated series.
        scale: factor of the step, or "validation": the one of 1/16, 1/8, ..., 256 with the best ``modified_f1``, of the
            accuracy on the removed images and on the validation images whose class is still trained on; the smallest
            of equals. An image with a new label is dealt with once that is predicted, as a removed one is once its
            given label is not; a change that only gives new weights forgets nothing, so that it needs a number here.
            The paper and its code choose it on the test set. A warning says if no edit does better than none.
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
    exempt: ClassVar[dict[str, str]] = dict.fromkeys(
        ("parameter_change_of_a_group", "parameter_change_of_a_mix"),
        "the curvature is that of what is left, which is another for each group",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"validation"})
    scales_edits: ClassVar[bool] = True
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
        if not 0 < self.ratio <= 1:
            raise InvalidInput(f"ratio is {self.ratio}; it is the share of a layer to change, above 0 and at most 1")
        if not isinstance(self.scale, str) and not 0 < self.scale < float("inf"):
            raise InvalidInput(f"scale is {self.scale}; it is a factor of the step, above 0")
        if not 0 <= self.damping < float("inf"):
            raise InvalidInput(f"damping is {self.damping}; it is a curvature, so 0 or more")
        if not self.tolerance >= 0 or self.max_iterations < 1 or not 0 < self.step < float("inf"):
            raise InvalidInput(
                f"tolerance={self.tolerance}, max_iterations={self.max_iterations}, step={self.step}: a tolerance of 0 "
                "or more, at least one iteration and a step above 0 are needed"
            )

    def _needs_classes(self, what: str | None) -> bool:
        return isinstance(self.scale, str) or super()._needs_classes(what)

    def _check_needs(self, study: Study) -> None:
        if isinstance(self.scale, str):  # a scale that is given needs nothing
            super()._check_needs(study)

    def _needed(self, what: str | None) -> frozenset[str]:
        return super()._needed(what) if isinstance(self.scale, str) else frozenset()

    def _fit_work(self, study: Study) -> Work:
        return Work()

    def _call_work(self, study: Study, what: str, tests: int) -> Work:
        """Two products with the Hessian for each iteration, and a look at the validation set for each scale."""
        step = swept(tests) + multiplied(study, 2 * self.max_iterations, kept=False)
        if not isinstance(self.scale, str):
            return step
        return step + Work(forward=(len(SCALES) + 1) * (len(study.split("validation")) + tests))

    def _fit(self, study: Study) -> None:
        if isinstance(self.selector, Masks):
            select(study.model, self.selector)  # refuses masks that do not fit

    @abstractmethod
    def _block(self, product: Hessian, chosen: Tensor) -> Columns:
        """The part of the Hessian that is inverted."""

    def _parameter_change(self, change: DataChange) -> Changed:
        study = self.study_
        self._check_scale(change)
        left, labels, weights = change.changed_loss(study.train)
        if not len(left):
            raise InvalidInput(f"all {change.size} training images are to be removed; the curvature needs some left")
        masks = self._masks(change)
        product = self._curvature(change, left, labels, weights)
        chosen = self._row(masks, product)
        terms = study.train.subset(change.terms()[0])
        gradient = term_gradient(study.model, study.loss, terms, change)
        mean = change.size / len(terms) * flatten({name: g[None] for name, g in gradient.items()}, product.shapes)[0]
        found = self._solved(self._block(product, chosen), mean)
        whole = unflatten((len(terms) / len(left) * found.x * chosen)[None], product.shapes)
        step = {name: whole[name][0] for name in masks}
        scale, judged = self._scaled(step, change)
        facts = {
            "changed": int(chosen.sum()),
            "changeable": product.size,
            "residual": found.residual,
            "iterations": found.iterations,
            "converged": found.converged,
            "divisor": found.divisor,
            "scale": scale,
        } | judged
        return Changed({name: scale * delta for name, delta in step.items()}, facts)

    def _curvature(self, change: DataChange, left: Tensor, labels: Tensor, weights: Tensor) -> Hessian:
        """The Hessian of what is left, over n images, with as much weight decay as n of N leave."""
        study = self.study_
        decay = study.weight_decay * (1 + (change.size - len(left)) / len(left))
        data = study.train.subset(left)
        if change.classes:
            data = data.with_labels(labels)
        if bool((weights == 1).all()):
            return Hessian(study.model, study.loss, data, weight_decay=decay)
        if not change.classes:
            weighted = Factored(data, weights, study.model)
            return Hessian(study.model, Weighted(study.loss), weighted, weight_decay=decay)
        inputs = _WithRows(data, torch.stack([labels.double(), weights], dim=1))
        return Hessian(study.model, Weighted(study.loss), inputs, weight_decay=decay)

    def _masks(self, change: DataChange) -> dict[str, Tensor]:
        study = self.study_
        if isinstance(self.selector, Masks):
            selection = select(study.model, self.selector)
            return {
                name: selection.masks.get(name, torch.ones_like(p, dtype=torch.bool))
                for name, p in selection.parameters.items()
            }
        if self.selector == "top_gradients":
            ids, labels, factors = change.terms()
            concerned = study.train.subset(ids)
            rows = torch.stack([labels.double(), factors], dim=1)
            added = _WithRows(concerned, rows) if change.classes else Factored(concerned, factors, study.model)
            return choose("top_gradients", self.ratio, study.model, Weighted(study.loss), added, self.seed)
        concerned = study.train.subset(change.ids)
        return choose(str(self.selector), self.ratio, study.model, study.loss, concerned, self.seed)

    def _row(self, masks: Mapping[str, Tensor], product: Hessian) -> Tensor:
        """The masks as one boolean row, in the order of the product."""
        parts = zip(product.shapes, product.parameters, strict=True)
        whole = {name: masks.get(name, torch.zeros_like(p, dtype=torch.bool)) for name, p in parts}
        return torch.cat([mask.flatten().to(product.parameters[0].device) for mask in whole.values()])

    def _solved(self, block: Columns, target: Tensor) -> LeastSquares:
        solve = partial(solve_series, step=self.step) if self.solver == "neumann" else solve_lsqr
        most = self.max_iterations
        return solve(block, target, damping=self.damping, tolerance=self.tolerance, max_iterations=most)

    def _check_scale(self, change: DataChange) -> None:
        if isinstance(self.scale, str) and not bool((change.removed | change.relabelled).any()):
            raise InvalidInput(
                "the scale of an edit is chosen by what it forgets, and new weights alone forget nothing: give a "
                f"number, {type(self).__name__}(scale=1.0)"
            )

    def _scaled(self, step: dict[str, Tensor], change: DataChange) -> tuple[float, dict[str, Any]]:
        """The factor of the step, and how it was judged."""
        if not isinstance(self.scale, str):
            return self.scale, {}
        new = change.relabelled
        labels = dict(zip(change.ids[new].tolist(), change.labels[new].tolist(), strict=True))
        scale, best, before = validated_scale(self.study_, step, change.ids[change.removed], labels)
        facts: dict[str, Any] = {"f1": best, "f1_without_edit": before}
        if best < before:
            said = (
                f"{self.title}: no edit does better on the validation set: at the best scale of {scale:g} the modified "
                f"F1 is {best:.3f}, without an edit {before:.3f}"
            )
            warnings.warn(said, stacklevel=2)
            facts["warnings"] = [said]
        return scale, facts

    def _facts(self) -> dict[str, Any]:
        return {"damping": self.damping, "weight_decay": self.study_.weight_decay}


class _WithRows:
    """A dataset whose labels are rows of a tensor."""

    def __init__(self, data: LabelledDataset, rows: Tensor) -> None:
        self._data, self._rows = data, rows

    def __len__(self) -> int:
        return len(self._data)

    def batch(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self._data.batch(ids)[0], self._rows[ids]
