"""Labels against those of the nearest neighbours: DeepKNN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from influence_core.errors import InvalidInput
from influence_core.estimators.base import Estimator
from influence_core.estimators.detectors.features import Layer, features_before, features_width, lacking_features
from influence_core.estimators.work import Work
from influence_core.models import layer_inputs, model_outputs
from influence_core.pieces import piece
from influence_core.progress import tick, track
from influence_core.study import Study
from influence_core.training import Checkpoint

PAIR, PRODUCT = 750, 2
"""Multiply-adds for each pair of images, at the speed of a matrix product: to choose among the distances, and for each
feature, in float64."""

_BLOCK_BYTES = 32 * 2**20
"""Of the distances of some images to all others."""


@dataclass
class DeepKNN(Estimator):
    r"""Disagreement of a label with those of the nearest training images ("Deep k-NN", Bahri et al. 2020).

    With the k nearest neighbours :math:`N_c(x)` of an image among the other training images, by Euclidean distance of
    features at checkpoint c of the last C ones,

    .. math:: v_c(x) = \frac1k\sum_{j\in N_c(x)} e_{y_j}, \qquad
              s(x, y) = \frac1C\sum_c \lVert v_c(x) - e_y\rVert_2^2 .

    Scores lie between 0 and 2; large: probably mislabelled. The label influence is the mean vote
    :math:`\frac1C\sum_c v_c` [N, K], rows adding up to 1: its argmax is the label of most neighbours. Without a
    trajectory the trained model alone is looked at.

    An image is no neighbour of itself; the code of the GEX comparison counts it, so that every image gets one vote for
    its own label. The same paper's "10 %" of the training set is N/K for its K = 10 classes, which is the default here
    for any K: as many neighbours as an even class has images. With classes of very unequal size take k from the
    smallest one, or its images are outvoted.

    Args:
        k: number of neighbours; N/K by default.
        layer: "penultimate", what goes into the last linear layer, or "logits" as in the code of the GEX comparison.
            Logits follow the given labels sooner: with memorised labels each class lies on a heap of its own.
        last: C, how many of the last checkpoints are looked at.
    """

    name: ClassVar[str] = "deepknn"
    title: ClassVar[str] = "Deep k-NN"
    paper: ClassVar[str] = "Bahri et al. 2020"
    good_for: ClassVar[str] = "Finds and suggests labels in a moment, without gradients or clean images"
    cost: ClassVar[str] = "C N forward + C neighbour searches"
    reasons: ClassVar[dict[str, str]] = dict.fromkeys(
        ("influence", "self_influence", "parameter_change"),
        "it compares labels of similar images, and not the effects of training on them",
    )
    for_classes: ClassVar[frozenset[str]] = frozenset({"fit"})
    by_rows: ClassVar[frozenset[str]] = frozenset({"mislabel_scores", "label_influence"})
    learned: ClassVar[tuple[str, ...]] = ("k_", "scores_", "votes_")

    k: int | None = None
    layer: Layer = "penultimate"
    last: int = 5

    def _check_parameters(self) -> None:
        if self.k is not None and self.k < 1:
            raise InvalidInput(f"k is {self.k}; at least one neighbour has to vote, or None for N/K")
        if self.last < 1:
            raise InvalidInput(f"last is {self.last}; at least one checkpoint has to be looked at")

    def _unsuited(self, study: Study) -> list[str]:
        return lacking_features(study, self.layer)

    def _fit_work(self, study: Study) -> Work:
        train, width = len(study.train), features_width(study, self.layer)
        models = max(1, min(self.last, len(study.trajectory or ())))
        return models * Work(forward=train, algebra=train**2 * (PAIR + PRODUCT * width))

    def _call_work(self, study: Study, what: str, tests: int) -> Work:
        return Work()  # all is done in fit

    def _fit(self, study: Study) -> None:
        size = len(study.train)
        if (self.k or 1) >= size:
            raise InvalidInput(f"k is {self.k or 1}; each of the {size} training images has {size - 1} others")
        self.k_ = self.k or min(size - 1, max(1, round(size / study.num_classes)))
        path = features_before(study, self.layer)
        hits = torch.nn.functional.one_hot(study.train.labels, study.num_classes)
        models: Sequence[Checkpoint | None] = list(study.trajectory or ())[-self.last :] or [None]
        self.votes_ = torch.zeros(size, study.num_classes, dtype=torch.float64)
        self.scores_ = torch.zeros(size, dtype=torch.float64)

        def votes_at(checkpoint: Checkpoint | None) -> dict[str, Tensor]:
            model = study.model if checkpoint is None else study.at(checkpoint)
            features = model_outputs(model, study.train) if path is None else layer_inputs(model, path, study.train)
            return {"votes": self._votes(features, study.train.labels, study.num_classes)}

        for number, checkpoint in enumerate(track(models, f"{self.title}: neighbours")):
            votes = piece(f"checkpoint-{number}", partial(votes_at, checkpoint))["votes"]
            self.votes_ += votes / len(models)
            self.scores_ += (votes - hits).square().sum(1) / len(models)

    def _votes(self, features: Tensor, labels: Tensor, classes: int) -> Tensor:
        """Share of each label among the neighbours, float64 [N, K]."""
        rows, size = features.flatten(1).double(), len(labels)
        labels = labels.to(rows.device)
        found = []
        for ids in torch.arange(size, device=rows.device).split(max(1, _BLOCK_BYTES // (size * rows.element_size()))):
            distances = torch.cdist(rows[ids], rows)
            distances[torch.arange(len(ids)), ids] = torch.inf  # no neighbour of itself
            neighbours = labels[distances.topk(self.k_, largest=False, sorted=False).indices]
            votes = torch.zeros(len(ids), classes, dtype=torch.float64, device=rows.device)
            found.append(votes.scatter_add_(1, neighbours, votes.new_ones(neighbours.shape)).cpu() / self.k_)
            tick()
        return torch.cat(found)

    def _mislabel_scores(self) -> Tensor:
        return self._of_scored(self.scores_).clone()

    def _label_influence(self) -> Tensor:
        return self._of_scored(self.votes_).clone()

    def _facts(self) -> dict[str, Any]:
        return {"k": self.k_}
