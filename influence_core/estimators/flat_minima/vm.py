"""Influence at a minimum of the validation loss: VM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from influence_core.curvature import Vectors
from influence_core.curvature.inverses import InverseCurvature, InverseSpec, Probes, spec
from influence_core.errors import InvalidInput
from influence_core.estimators.answers import Answer
from influence_core.estimators.flat_minima.minimum import ValidationMinimum
from influence_core.estimators.work import Work, parameters_of, swept
from influence_core.gradients import (
    Block,
    Consumer,
    SweepContext,
    sweep,
)
from influence_core.study import Study

PROBES = 5
"""The paper's number of random vectors."""


@dataclass
class VM(ValidationMinimum):
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
    and can be negative. EK-FAC needs no probes: its q is exact for its matrix, from one sweep. The paper finds no gain
    over the diagonal, and neither should be expected.

    Args:
        steps: optimiser steps on the validation set.
        learning_rate: at the start; half a cosine takes it to 0.
        momentum: of SGD.
        weight_decay: lambda of the penalty lambda/2 ||w||^2.
        batch_size: samples per step.
        damping: :math:`\lambda` relative to the mean of P, 0.001 by default; with another curvature relative as in the
            inverse of that name, 0.1 by default.
        metric: "diagonal" for P, or the validation set's curvature by "ekfac", "lissa" or "conjugategradient"
            (Gauss-Newton), "datainf" or another inverse curvature, by name or as an ``InverseSpec`` with options.
        probes: R, for a metric other than the diagonal; its seed is ``seed``. ``None`` for no probes where the inverse
            gives all norms in one sweep, and else 5.
        pairwise: "first_order", or "eq20" for both terms.
        epsilon: of eq. 20.
        hessian: in eq. 20, "diagonal" for :math:`\mathrm{diag}(g_v^2)` (with the diagonal metric only) or "outer" for
            :math:`g_v g_v^\top`.
        top_labels: how many labels of lowest loss to look at beside the given one, 0 for all; ``None`` for all below 50
            classes, and else 10. The other labels' influence is below that of all labels looked at. For the diagonal
            metric; another one looks at all.
        batch_statistics: whether batch normalisation uses batch statistics while tuning.
        seed: of the order of the batches.
    """

    name: ClassVar[str] = "vm"
    title: ClassVar[str] = "VM"
    paper: ClassVar[str] = "flat validation minima, 2025 (plain optimiser)"
    good_for: ClassVar[str] = "As FVM, level with it on the digits, with half of the tuning"
    cost: ClassVar[str] = "steps x batch backward + (V + N) backward; label influence N forward and K N backward"
    learned: ClassVar[tuple[str, ...]] = ("probes_",)

    metric: str | InverseSpec = "diagonal"
    probes: int | None = None
    pairwise: Literal["first_order", "eq20"] = "first_order"
    epsilon: float = 0.01
    hessian: Literal["diagonal", "outer"] = "diagonal"

    def _check_parameters(self) -> None:
        super()._check_parameters()
        name = spec(self.metric).name  # refuses a name or an option that there is not
        if self.damping is not None and "damping" in spec(self.metric).options:
            raise InvalidInput(f"damping={self.damping} and {self.metric!r}: give the damping once")
        if self.pairwise == "eq20" and self.hessian == "diagonal" and name != "diagonal":
            raise InvalidInput(
                f"hessian='diagonal' in eq. 20 needs every entry of x, which the metric {name!r} gives for no "
                "training image: choose hessian='outer' or metric='diagonal'"
            )
        if not 0 <= self.epsilon < math.inf:
            raise InvalidInput(f"epsilon is {self.epsilon}; it is the size of a step, so 0 or more")
        if self.probes is not None and self.probes < 1:
            raise InvalidInput(f"probes is {self.probes}; at least one random vector is needed, or None")

    def _fit(self, study: Study) -> None:
        super()._fit(study)
        self.probes_: Probes | None = None
        wanted = self.probes is not None and spec(self.metric).name != "diagonal"
        if wanted or not self.inverse_.has_metric:
            self.probes_ = Probes.through(self.inverse_, self.model_, self.probes or PROBES, self.seed)

    def _fit_inverse(self, study: Study) -> InverseCurvature:
        # The weight decay of the training is left out: only the damping is added.
        chosen = spec(self.metric)
        default = 1e-3 if chosen.name == "diagonal" else 0.1
        damping = default if self.damping is None else self.damping
        return chosen.fit(self.model_, study.loss, study.split("validation"), damping=damping)

    def _fit_work(self, study: Study) -> Work | None:
        return super()._fit_work(study) if spec(self.metric).name == "diagonal" else None

    def _call_work(self, study: Study, what: str, tests: int) -> Work | None:
        asked = super()._call_work(study, what, tests)
        if asked is None or what != "influence" or self.pairwise == "first_order" or self.hessian == "outer":
            return asked
        return asked + swept(len(study.train), tests, parameters_of(study))

    def _influence(self, test_ids: Tensor) -> Answer:
        queries = self._queries(test_ids)
        first = self._first_order(queries)
        if self.pairwise == "first_order":
            return first
        if self.hessian == "outer":
            return Answer(first.values.addcmul_(first.values, first.values, value=0.5 * self.epsilon), first.facts)
        study = self.study_
        products = _SquareProducts({name: query.square() for name, query in queries.vectors.items()})
        sweep(self.model_, study.loss, self._scored, [products])
        return Answer(first.values.add_(products.values, alpha=0.5 * self.epsilon), first.facts)

    def _norms(self) -> InverseCurvature | Probes:
        return self.inverse_ if self.probes_ is None else self.probes_

    def _mislabel_scores(self) -> Answer:
        study = self.study_
        return Answer(self._norms().squared_norms(self.model_, study.loss, self._scored), self._probed())

    def _label_influence(self) -> Answer:
        study = self.study_
        norms = self._norms().label_norms(self.model_, study.loss, self._scored, study.num_classes, self.top_labels)
        return Answer(-norms.to(next(self.model_.parameters()).dtype), self._probed())

    def _probed(self) -> dict[str, Any]:
        return {} if self.probes_ is None else dict(self.probes_.facts)


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
