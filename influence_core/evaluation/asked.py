"""Influence that is to be judged: given as scores, or by an estimator that is asked now."""

from __future__ import annotations

import torch
from torch import Tensor

from influence_core.errors import InvalidInput, NotSupported, StaleResult
from influence_core.estimators import Estimator
from influence_core.scores import Scores
from influence_core.study import Study


def asked_influence(study: Study, scores: Scores | Estimator, test_ids: Tensor, what: str) -> Scores:
    """Influence of all training images on some test images.

    Args:
        study: that they are about.
        scores: influence; or an estimator, which is fitted on ``study`` unless it already is.
        test_ids: that have to be among its columns.
        what: is judged by it, with an article, for the messages.

    Returns:
        The scores, [N, M], a column for each of ``test_ids`` in their order.

    Raises:
        NotSupported: if the scores are of another kind.
        InvalidInput: if they do not cover the training set, or a test image is missing.
        StaleResult: if they belong to another study.
    """
    if isinstance(scores, Estimator):
        if getattr(scores, "study_", None) is not study:
            scores.fit(study)
        scores = scores.influence(test_ids)
    if scores.kind != "influence" or scores.test_ids is None:
        raise NotSupported(f"{what} needs influence scores; these are {scores.kind} scores")
    if scores.meta.get("study", study.fingerprint) != study.fingerprint:
        raise StaleResult(f"these {scores.name} scores belong to another study: call .fit(study) again")
    if not torch.equal(scores.train_ids, torch.arange(len(study.train))):
        raise InvalidInput(f"there are scores for {len(scores.train_ids)} of {len(study.train)} training images")
    columns = torch.stack([scores.column(int(j)) for j in test_ids], dim=1)
    return Scores(columns, scores.train_ids, "influence", scores.scale, test_ids, scores.coverage, scores.meta)
