"""Labels against those of related images, in one graph of all: RelationGraph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from influence_core.batches import id_batches
from influence_core.errors import InvalidInput
from influence_core.estimators.base import Estimator
from influence_core.estimators.detectors.features import Layer, features_before, features_width, lacking_features
from influence_core.estimators.detectors.from_scratch import one_hot
from influence_core.estimators.work import Work
from influence_core.models import layer_inputs, model_outputs
from influence_core.progress import track
from influence_core.study import Study

PAIR, PRODUCT = 500, 2
"""Multiply-adds for each pair of images, at the speed of a matrix product: for its relation, and for each feature."""


@dataclass
class RelationGraph(Estimator):
    r"""Labels against those of related images, in one graph of all (Kim et al. 2023, "Neural relation graph").

    With the features f of the penultimate layer and the predicted probabilities p of one model, two images are related
    by

    .. math:: \kappa_{ij} = \bigl[\max(0, \cos(f_i, f_j))\; p_i^\top p_j\bigr]^t,

    or not at all where the bracket is below ``cutoff``. A label k of image i agrees with the set by

    .. math:: a_i(k) = \sum_j \kappa_{ij}\, (2 \cdot 1[y_j = k] - 1)\, (1 - 2 \cdot 1[j \in \mathcal N]),

    where related images with the same label speak for it, others against it, and those in the set :math:`\mathcal N` of
    labels that are taken for wrong the other way round (Algorithm 1). The set is empty first; then it is those whose
    given label has :math:`a_i(y_i) < -\lambda \max_j |a_j(y_j)|`, ``rounds`` times. The score is
    :math:`s_i = -a_i(y_i)`: large where related images have another label. The influence of a label k is
    :math:`a_i(k)`.

    All pairs are looked at, a block of rows at a time, so that time grows with the square of the images and memory does
    not. The model knows its labels: where it has learnt the wrong ones by heart, features and probabilities repeat
    them, and the relations do too.

    Args:
        temperature: t; the paper takes 4.
        regularisation: :math:`\lambda`; the paper takes 0.05.
        cutoff: least bracket; the authors' code takes 0.03.
        rounds: how often the set of wrong labels is made; the authors' code does so once.
        layer: "penultimate" for the inputs of the last linear layer, or "logits".
    """

    name: ClassVar[str] = "relationgraph"
    title: ClassVar[str] = "Relation graph"
    paper: ClassVar[str] = "Kim et al. 2023"
    good_for: ClassVar[str] = "Compares all images with all by what one model sees in them; suggests labels"
    cost: ClassVar[str] = "N forward + N x N inner products of features"
    reasons: ClassVar[dict[str, str]] = dict.fromkeys(
        ("influence", "self_influence", "parameter_change"),
        "it compares labels of related images, and not the effects of training on them",
    )
    for_classes: ClassVar[frozenset[str]] = frozenset({"fit"})
    by_rows: ClassVar[frozenset[str]] = frozenset({"mislabel_scores", "label_influence"})
    learned: ClassVar[tuple[str, ...]] = ("agreement_",)

    temperature: float = 4.0
    regularisation: float = 0.05
    cutoff: float = 0.03
    rounds: int = 1
    layer: Layer = "penultimate"

    def _check_parameters(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise InvalidInput(f"temperature is {self.temperature}; it is an exponent above 0")
        if not 0 <= self.regularisation < math.inf or not 0 <= self.cutoff < 1:
            raise InvalidInput(
                f"regularisation={self.regularisation}, cutoff={self.cutoff}: shares from 0 on are needed, and a "
                "cutoff below 1"
            )
        if self.rounds < 0:
            raise InvalidInput(f"rounds is {self.rounds}; at least 0, which takes every label for right")

    def _unsuited(self, study: Study) -> list[str]:
        return lacking_features(study, self.layer)

    def _fit_work(self, study: Study) -> Work:
        train, width = len(study.train), features_width(study, self.layer) + 2 * study.num_classes
        return Work(forward=2 * train, algebra=(1 + self.rounds) * float(train) ** 2 * (PAIR + PRODUCT * width))

    def _call_work(self, study: Study, what: str, tests: int) -> Work:
        return Work()  # all is done in fit

    def _fit(self, study: Study) -> None:
        path = features_before(study, self.layer)
        outputs = model_outputs(study.model, study.train)
        features = outputs if path is None else layer_inputs(study.model, path, study.train)
        rows = torch.nn.functional.normalize(features.flatten(1).double(), dim=1)
        p, labels = outputs.double().softmax(1), study.train.labels.cpu()
        signs = 2 * one_hot(labels, p) - 1
        wrong = torch.zeros(len(labels), dtype=torch.bool)
        agreement = torch.zeros_like(signs)
        for turn in range(self.rounds + 1):
            if turn:
                given = agreement.gather(1, labels[:, None])[:, 0]
                wrong = given < -self.regularisation * given.abs().max()
            votes = torch.where(wrong[:, None], -signs, signs)
            title = f"{self.title}: round {turn + 1} of {self.rounds + 1}"
            blocks = track(list(id_batches(len(rows))), title)
            agreement = torch.cat([self._related(rows, p, ids) @ votes for ids in blocks])
        self.agreement_ = agreement

    def _related(self, rows: Tensor, p: Tensor, ids: Tensor) -> Tensor:
        """How images are related to all [B, N]; to themselves not."""
        found = (rows[ids] @ rows.T).clamp_min_(0).mul_(p[ids] @ p.T)
        found[found < self.cutoff] = 0
        found[torch.arange(len(ids)), ids] = 0
        return found.pow_(self.temperature)

    def _mislabel_scores(self) -> Tensor:
        given = self._of_scored(self.study_.train.labels)
        return -self._of_scored(self.agreement_).gather(1, given[:, None])[:, 0]

    def _label_influence(self) -> Tensor:
        return self._of_scored(self.agreement_).clone()
