"""Several detectors as one, without learning anything: the mean of their ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from influence_core.errors import InvalidInput, NotSupported, StaleResult
from influence_core.scores import Scores


def rank_mean(scores: Sequence[Scores]) -> Scores:
    """Mean rank of each training image under several detectors.

    Detectors whose errors have different causes make up for each other; one that is much worse than the others spoils
    the mean, which stacking on planted flips (``ic.estimators.CalibratedDetector``) does not let happen.

    Args:
        scores: mislabel or self-influence scores of the same training images, from two detectors or more.

    Returns:
        Mislabel scores [N], 0 to 1: the mean of the ranks as a share of N; equal scores share their mean rank.

    Raises:
        InvalidInput: if there are fewer than two, or they are not of the same images.
        NotSupported: if scores are of another kind.
        StaleResult: if they belong to different studies.
    """
    if len(scores) < 2:
        raise InvalidInput(f"{len(scores)} scores given; a mean rank is of two detectors or more")
    first = scores[0]
    for one in scores:
        if one.kind not in ("mislabel", "self_influence"):
            raise NotSupported(f"a mean rank needs mislabel scores; those of {one.name} are {one.kind} scores")
        if not torch.equal(one.train_ids, first.train_ids):
            raise InvalidInput(f"{first.name} and {one.name} did not score the same training images")
        if one.meta.get("study") != first.meta.get("study"):
            raise StaleResult(f"{first.name} and {one.name} were fitted on different studies: fit both on the same one")
    ranks = pd.DataFrame({number: one.values.double().numpy() for number, one in enumerate(scores)}).rank(pct=True)
    names = "+".join(one.name for one in scores)
    meta: dict[str, Any] = {"estimator": f"rank mean of {names}", "parameters": {}}
    if "study" in first.meta:
        meta["study"] = first.meta["study"]
    values = torch.from_numpy(ranks.mean(axis=1).to_numpy(dtype="float64", copy=True))
    return Scores(values, first.train_ids, "mislabel", train=first.train, study=first.study, meta=meta)
