"""The parts of a prediction: what is asked for, sums of scores, and answers that would be others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from influence_core.applications.receipt import Action
from influence_core.errors import InvalidInput
from influence_core.estimators import Estimator
from influence_core.estimators.changes import DataChange, checked_ids
from influence_core.losses import cross_entropy
from influence_core.parameters import plain
from influence_core.scores import Scores
from influence_core.study import Study


def as_arguments(size: int, ids: Any, action: str, labels: Any, weights: Any) -> dict[str, Any]:
    """What ``what_if`` was given, as arguments of ``parameter_change``.

    Args:
        size: N, images in the training set.
        ids: of training images; for new labels or weights also a dict with these by id.
        action: "remove", "relabel" or "reweight".
        labels: for "relabel".
        weights: for "reweight".

    Returns:
        ``remove``, ``relabel`` or ``weight``.

    Raises:
        InvalidInput: if they do not go together.
    """
    if action not in get_args(Action):
        raise InvalidInput(f"action is {action!r}; choose one of {', '.join(get_args(Action))}")
    given = {"relabel": labels, "reweight": weights}
    if isinstance(ids, Mapping) and action in given and given[action] is None:
        given[action], ids = ids, list(ids)
    for name, values in given.items():
        if (values is None) == (action == name):
            which = {"relabel": "labels", "reweight": "weights"}[name]
            if values is None:
                raise InvalidInput(f"action={name!r} needs {which}={{id: one for each image}}, or one for all")
            raise InvalidInput(f"{which} go with action={name!r}: here action={action!r} and {which}={values!r}")
    if action == "remove":
        return {"remove": ids}
    listed = checked_ids(list(ids) if isinstance(ids, Sequence) else ids, size, "training").tolist()
    if len(set(listed)) < len(listed):
        raise InvalidInput(f"of the {len(listed)} training ids some are given twice; give each once")
    values = given[action]
    if isinstance(values, Mapping):
        if set(values) != set(listed):
            raise InvalidInput(f"there are values for {len(values)} images and {len(listed)} ids: give one for each id")
        found = dict(values)
    else:
        row = values.tolist() if hasattr(values, "tolist") else values
        row = [row] * len(listed) if isinstance(row, (int, float, str)) else list(row)
        if len(row) != len(listed):
            raise InvalidInput(f"there are {len(row)} values for {len(listed)} ids: give one for each, or one for all")
        found = dict(zip(listed, row, strict=True))
    return {"relabel" if action == "relabel" else "weight": found}


def added_up(
    study: Study, estimator: Estimator, change: DataChange, scores: Scores | None = None
) -> tuple[Tensor, Scores]:
    """Change of each test loss by sums of scores.

    Args:
        study: that the estimator is fitted on.
        estimator: fitted; for new labels it is fitted once more, on the study with these.
        change: of the training set.
        scores: the influence on all test images, where it is there already.

    Returns:
        The change, float64 [M], and the scores.

    Raises:
        InvalidInput: if the scores are those of another estimator or study, or not of all images.
    """
    if scores is None:
        scores = estimator.influence()
    elif (
        (scores.kind, scores.meta.get("estimator")) != ("influence", estimator.name)
        or scores.meta.get("study") != study.fingerprint
        or plain(scores.meta.get("parameters")) != plain(estimator.get_params())
        or not torch.equal(torch.as_tensor(scores.test_ids), torch.arange(len(study.test)))
        or not torch.equal(torch.as_tensor(scores.train_ids), torch.arange(len(study.train)))
    ):
        raise InvalidInput(
            f"scores are of {scores.meta.get('estimator')} {tuple(scores.values.shape)}; expected the influence of "
            f"this {estimator.title} on all test images, estimator.influence()"
        )
    rows = scores.values[change.ids].double()
    if not bool(change.relabelled.any()):
        return ((1 - change.weights)[:, None] * rows).sum(0), scores
    labels = study.train.labels.clone()
    labels[change.ids] = change.labels
    again = type(estimator)(**estimator.get_params()).fit(study.replaced(train=study.train.with_labels(labels)))
    return (rows - again.influence().values[change.ids].double()).sum(0), scores


def flips(study: Study, edited: Study | None, losses: Tensor, scale: str) -> tuple[Tensor | None, Tensor | None]:
    """Mistakes that would be mended, and right predictions that would be mistakes.

    Args:
        study: as it is.
        edited: with the edited model, or ``None``.
        losses: predicted ones of the test images, float64 [M].
        scale: of the prediction.

    Returns:
        Ids of both, int64; ``None`` where nothing says it.
    """
    if study.classes is None:
        return None, None
    right = study.predictions() == study.test.labels
    if edited is not None:
        then = edited.predictions() == study.test.labels
        return (then & ~right).nonzero().flatten(), (right & ~then).nonzero().flatten()
    if study.loss is not cross_entropy or scale != "nats":
        return None, None
    mended, broken = losses < math.log(2), losses > math.log(study.classes)
    return (mended & ~right).nonzero().flatten(), (broken & right).nonzero().flatten()
