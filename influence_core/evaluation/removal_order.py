"""In which order training images are taken away to turn a prediction over, and how many should do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from influence_core.errors import NotSupported
from influence_core.estimators import Estimator
from influence_core.evaluation.asked import asked_influence
from influence_core.scores import Scores
from influence_core.study import Study


@dataclass(frozen=True)
class RemovalOrder:
    """Training images from the one that holds a prediction most.

    Attributes:
        name: of the estimator.
        ids: of all training images, int64 [M, N], a row for each test image.
        enough: how many of a row should do, as far as that is defined; else ``None``.
    """

    name: str
    ids: Tensor
    enough: list[int | None]


def with_every_label(study: Study, test_ids: Tensor) -> Study:
    """A study that asks for the loss of each of some test images with each label.

    Args:
        study: with K classes.
        test_ids: int64 [M].

    Returns:
        The study with M * K test images: the first with labels 0 to K - 1, then the second.
    """
    k = study.num_classes
    labels = torch.arange(k).repeat(len(test_ids))
    return study.replaced(test=study.test.subset(test_ids.repeat_interleave(k)).with_labels(labels))


def removal_order(study: Study, scores: Scores | Estimator, test_ids: Tensor, losses: Tensor) -> RemovalOrder:
    r"""Rank the training images by how far they hold the prediction of each test image.

    Of an estimator the influence on the image's loss with its present prediction :math:`\hat y` and with the runner-up
    c is asked for. The margin is :math:`m = \ell_c - \ell_{\hat y}` (for cross-entropy the gap of the logits), removing
    k lowers it by :math:`a_k = h_{\hat y}(k) - h_c(k)`, and :math:`n` images should do as soon as
    :math:`a_1 + \dots + a_n > m`, the largest first.

    Scores are of the loss with the *given* label. Where the prediction is that label the most helpful images hold it,
    where it is another one the most harmful do. How many should do is not defined by them.

    Args:
        study: that was explained.
        scores: of the given labels; or an estimator, of which a copy with the same settings is fitted.
        test_ids: int64 [M].
        losses: of each test image with each label, [M, K].

    Returns:
        The order.
    """
    if isinstance(scores, Estimator):
        return _by_margin(study, scores, test_ids, losses.double())
    found = asked_influence(study, scores, test_ids, "brittleness")
    holds = losses.argmin(1) == study.test.labels[test_ids]
    helpful = found.values.double() * torch.where(holds, 1.0, -1.0)
    return RemovalOrder(found.name, _descending(helpful.T), [None] * len(test_ids))


def _by_margin(study: Study, estimator: Estimator, test_ids: Tensor, losses: Tensor) -> RemovalOrder:
    if "influence" not in estimator.gives():
        raise estimator.lacks("influence")
    least, labels = losses.topk(2, dim=1, largest=False)
    data = study.test.subset(test_ids.repeat_interleave(2)).with_labels(labels.flatten())
    copy = type(estimator)(**estimator.get_params()).fit(study.replaced(test=data))
    found = copy.influence()
    present, runner_up = found.values.double().T.reshape(len(test_ids), 2, -1).unbind(1)
    order = _descending(present - runner_up)
    sums = (present - runner_up).gather(1, order).cumsum(1)
    enough = [_first(row > gap) for row, gap in zip(sums, least[:, 1] - least[:, 0], strict=True)]
    return RemovalOrder(found.name, order, enough if found.scale == "nats" else [None] * len(test_ids))


def check_predictions(study: Study, test_ids: Tensor, losses: Tensor) -> None:
    """Refuse a loss by which the predicted label is not that of least loss.

    Args:
        study: whose model predicts.
        test_ids: int64 [M].
        losses: of each with each label, [M, K].

    Raises:
        NotSupported: if it is so.
    """
    other = losses.argmin(1) != study.predictions("test")[test_ids]
    if bool(other.any()):
        raise NotSupported(
            f"the model predicts another label for test image {int(test_ids[other][0])} than the one of least loss: "
            "whether a prediction turns over is read from losses, such as cross-entropy"
        )


def _descending(rows: Tensor) -> Tensor:
    """Places from the largest of each row on, equal ones in their order."""
    return torch.sort(rows, dim=1, descending=True, stable=True).indices


def _first(reached: Tensor) -> int | None:
    """How many it takes, from 1 on."""
    places = reached.nonzero().flatten()
    return int(places[0]) + 1 if len(places) else None
