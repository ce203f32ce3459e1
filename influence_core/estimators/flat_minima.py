"""Influence at a minimum of the validation loss: VM and FVM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from influence_core.curvature import Vectors
from influence_core.errors import InvalidInput
from influence_core.estimators.label_norms import label_scores, squared_norms_of_labels
from influence_core.estimators.validation_metrics import (
    Metric,
    gaussian_probes,
    probed_label_norms,
    probed_norms,
    validation_solver,
)
from influence_core.estimators.validation_tuning import FlatValidationTuned, ValidationTuned
from influence_core.gradients import (
    Block,
    Consumer,
    SweepContext,
    inner_products,
    mean_squares,
    per_sample_gradients,
    squared_norms,
    sweep,
)
from influence_core.study import Study

_CHOICES = {
    "metric": ("diagonal", "ekfac", "lissa", "datainf"),
    "pairwise": ("first_order", "eq20"),
    "hessian": ("diagonal", "outer"),
}


@dataclass
class VM(ValidationTuned):
    r"""Influence at a minimum of the validation loss ("flat validation minima", section 3.4, with a plain optimiser).

    The model is tuned on the clean validation set to :math:`\tilde\theta`. With the diagonal of the validation set's
    empirical Fisher matrix for its Hessian, gradients g at :math:`\tilde\theta`, and damping, the disagreement of a
    training image with the validation set is

    .. math:: P = \frac1V \sum_m \mathrm{diag}(g_m g_m^\top) \quad\text{(eq. 24)}, \qquad
              q(z) = g_z^\top (P + \lambda)^{-1} g_z \quad\text{(eq. 21)}.

    P is the mean of squared gradients of single images, not the square of a batch's; the paper has no damping, but
    units that are dead on the validation set make P zero.

    *Sign.* At a minimum of the validation loss every step away raises it, so q is never negative and says nothing about
    what a removal does: it says how far image and validation set disagree. A large q means probably mislabelled. The
    mislabel score is therefore q (eq. 21) and the influence of a label -q (eq. 25, which has the sign that section 4.1
    describes): the suggestion is the label with the *smallest* q. Eq. 22, the argmax, belongs to eq. 25; read with
    eq. 21 it would suggest the worst label.

    For one test image v the influence is, with :math:`x = (P + \lambda)^{-1} g_z`,

    .. math:: h(z, v) = g_v^\top x + \tfrac12 \epsilon\, x^\top \nabla^2\ell_v\, x \quad\text{(eq. 20)} .

    The default is the first term. The second takes :math:`\nabla^2\ell_v \approx \mathrm{diag}(g_v^2)` or
    :math:`g_v g_v^\top`, neither of which is ever negative: it makes every image a little more helpful, most so those
    with large gradients.

    *Other curvatures* (appendix C.4). A solver that only gives :math:`H^{-1}` times a vector would have to run for each
    training image. Instead, with Gaussian probes v that are solved once,

    .. math:: q(z) \approx \frac1R \sum_{r=1}^R (g_z^\top H^{-1} v_r)(v_r^\top g_z) .

    The mean over probes is q, but single numbers scatter by about :math:`\sqrt{2/R}` of it, 63 % for the paper's R = 5,
    and can be negative. The paper finds no gain over the diagonal, and neither should be expected.

    Args:
        steps: optimiser steps on the validation set.
        learning_rate: at the start; half a cosine takes it to 0.
        momentum: of SGD.
        weight_decay: lambda of the penalty lambda/2 ||w||^2.
        batch_size: samples per step.
        damping: :math:`\lambda` relative to the mean of P, 0.001 by default; with another curvature relative as in the
            estimator of that name, 0.1 by default.
        metric: "diagonal" for P, or the validation set's curvature by "ekfac", "lissa" (Gauss-Newton) or "datainf".
        probes: R, for a metric other than the diagonal; its seed is ``seed``.
        pairwise: "first_order", or "eq20" for both terms.
        epsilon: of eq. 20.
        hessian: in eq. 20, "diagonal" for :math:`\mathrm{diag}(g_v^2)` (with the diagonal metric only) or "outer" for
            :math:`g_v g_v^\top`.
        top_labels: how many labels of lowest loss to look at beside the given one, 0 for all; ``None`` for all below 50
            classes, and else 10. The other labels' influence is below that of all labels looked at.
        batch_statistics: whether batch normalisation uses batch statistics while tuning.
        seed: of the order of the batches.
    """

    name: ClassVar[str] = "vm"
    title: ClassVar[str] = "VM"
    paper: ClassVar[str] = "flat validation minima, 2025 (plain optimiser)"
    cost: ClassVar[str] = "steps x batch backward + (V + N) backward; label influence N forward and K N backward"
    reasons: ClassVar[dict[str, str]] = {
        "self_influence": "q measures disagreement with the validation set, not what the image does to itself"
    }
    exempt: ClassVar[dict[str, str]] = {"rotated_inputs": "a diagonal metric belongs to its coordinates"}
    learned: ClassVar[tuple[str, ...]] = ("damping_", "inverse_fisher_", "model_", "solved_", "solver_facts_")

    damping: float | None = None
    metric: Metric = "diagonal"
    probes: int = 5
    pairwise: Literal["first_order", "eq20"] = "first_order"
    epsilon: float = 0.01
    hessian: Literal["diagonal", "outer"] = "diagonal"
    top_labels: int | None = None

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.damping is not None and not 0 < self.damping < math.inf:
            raise InvalidInput(f"damping is {self.damping}; it divides by P + damping, so it must be above 0")
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise InvalidInput(f"{field} is {getattr(self, field)!r}; choose one of {', '.join(choices)}")
        if self.pairwise == "eq20" and self.hessian == "diagonal" and self.metric != "diagonal":
            raise InvalidInput(
                f"hessian='diagonal' in eq. 20 needs every entry of x, which the metric {self.metric!r} gives for no "
                "training image: choose hessian='outer' or metric='diagonal'"
            )
        if not 0 <= self.epsilon < math.inf:
            raise InvalidInput(f"epsilon is {self.epsilon}; it is the size of a step, so 0 or more")
        if self.probes < 1:
            raise InvalidInput(f"probes is {self.probes}; at least one random vector is needed")
        if self.top_labels is not None and self.top_labels < 0:
            raise InvalidInput(f"top_labels is {self.top_labels}; it is a number of labels, or 0 for all")

    def _fit(self, study: Study) -> None:
        self.model_ = self._tuned(study)
        if self.metric == "diagonal":
            self._fit_diagonal(study)
            return
        solver = validation_solver(self.metric, study, self.model_, self._relative_damping())
        self.solved_: Vectors = solver._solve(gaussian_probes(self.model_, self.probes, self.seed))
        self.solver_facts_ = solver._facts()

    def _relative_damping(self) -> float:
        return (1e-3 if self.metric == "diagonal" else 0.1) if self.damping is None else self.damping

    def _fit_diagonal(self, study: Study) -> None:
        fisher = mean_squares(self.model_, study.loss, study.split("validation"))
        count = sum(p.numel() for p in fisher.values())
        mean = float(sum(p.sum(dtype=torch.float64) for p in fisher.values())) / count
        if mean == 0:
            raise InvalidInput(
                "every gradient on the validation set is zero at the tuned model, which is certain of each image: "
                "use fewer steps"
            )
        self.damping_ = self._relative_damping() * mean
        self.inverse_fisher_ = {name: 1.0 / (p + self.damping_) for name, p in fisher.items()}

    def _influence(self, test_ids: Tensor) -> Tensor:
        study = self.study_
        queries = per_sample_gradients(self.model_, study.loss, study.test.subset(test_ids))
        if self.metric == "diagonal":
            queries = {name: query * self.inverse_fisher_[name] for name, query in queries.items()}
        else:
            queries = validation_solver(self.metric, study, self.model_, self._relative_damping())._solve(queries)
        first = inner_products(self.model_, study.loss, study.train, queries)
        if self.pairwise == "first_order":
            return first
        if self.hessian == "outer":
            return first + 0.5 * self.epsilon * first.square()
        products = _SquareProducts({name: query.square() for name, query in queries.items()})
        sweep(self.model_, study.loss, study.train, [products])
        return first + 0.5 * self.epsilon * products.values

    def _mislabel_scores(self) -> Tensor:
        study = self.study_
        if self.metric == "diagonal":
            return squared_norms(self.model_, study.loss, study.train, self.inverse_fisher_)
        return probed_norms(self.model_, study.loss, study.train, self._probes(), self.solved_)

    def _label_influence(self) -> Tensor:
        study, classes = self.study_, self.study_.num_classes
        if self.metric == "diagonal":
            score = squared_norms_of_labels
            norms = label_scores(
                self.model_, study.loss, study.train, self.inverse_fisher_, classes, score, self.top_labels
            )
        else:
            norms = probed_label_norms(self.model_, study.loss, study.train, self._probes(), self.solved_, classes)
        return -norms.to(next(self.model_.parameters()).dtype)

    def _probes(self) -> Vectors:
        return gaussian_probes(self.model_, self.probes, self.seed)

    def _facts(self) -> dict[str, Any]:
        return {"damping": self.damping_} if self.metric == "diagonal" else dict(self.solver_facts_)


class _SquareProducts(Consumer):
    """Consumer: inner products of squared gradients with given vectors, ``[N, M]``."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    def start(self, context: SweepContext) -> None:
        queries = len(next(iter(self._vectors.values())))
        self.values = torch.zeros(context.samples, queries, device=context.device, dtype=context.dtype)

    def consume(self, block: Block) -> None:
        values = self.values[block.samples]
        for name, gradients in block.items():
            vectors = gradients.layout.flatten(self._vectors[name])
            for some, rows in gradients.chunks():
                values[some] += rows.square() @ vectors.T

    def finish(self) -> None:
        pass


@dataclass
class FVM(FlatValidationTuned, VM):
    r"""Influence at a *flat* minimum of the validation loss ("flat validation minima", section 3.4).

    As ``VM``, but the model is tuned on the validation set with sharpness-aware minimisation, which bounds the error of
    the estimate by the sharpness of the validation loss (eq. 11 and 12). Mislabel score q, influence and label
    influence are those of ``VM``, and so are the arguments that are not named here.

    Args:
        solver: "sam", or "asam", "fsam" (the best of the paper's Table 12) or "lpf" (its choice for text and images).
        rho: radius of the ascent (gamma in the paper), which took 0.05 for SAM on CIFAR-10N and 0.1 on CIFAR-100N and
            does not say what it took for the others. ``None`` for the solver's own default: SAM 0.05, ASAM 0.5,
            F-SAM 0.2.
        eta: of ASAM, beside the weights' sizes.
        sigma: of F-SAM, share of the mean gradient that its ascent leaves out.
        decay: of F-SAM's moving mean.
        gamma: of LPF-SGD, noise relative to the filters' norms.
        parts: of LPF-SGD, parts of a batch with noise of their own; the paper took 1.
    """

    name: ClassVar[str] = "fvm"
    title: ClassVar[str] = "FVM"
    paper: ClassVar[str] = "flat validation minima, 2025"
    cost: ClassVar[str] = "2 x steps x batch backward + (V + N) backward; label influence N forward and K N backward"
