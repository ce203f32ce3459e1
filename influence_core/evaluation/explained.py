"""Which test images an evaluation explains where nobody says so."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from influence_core.evaluation.retraining import chosen_ids
from influence_core.study import Study

MOST = 20
"""Test images that are explained by default: a solve each is dear for some estimators."""


def explained_ids(study: Study, test: int | Sequence[int] | Tensor | None, known: Tensor | None = None) -> Tensor:
    """Ids of the test images to explain.

    Args:
        study: whose test images they are.
        test: ids; by default the misclassified ones, evenly spread over all of them where there are more than 20. Where
            none is wrong, or labels are no classes, those with the largest loss.
        known: ids to choose from by default; all test images otherwise.

    Returns:
        int64 [M].

    Raises:
        InvalidInput: if there is no such test image.
    """
    if test is not None:
        return chosen_ids([test] if isinstance(test, int) else test, len(study.test), "test")
    among = torch.arange(len(study.test)) if known is None else known
    if study.classes is not None:
        wrong = study.misclassified()
        wrong = wrong[torch.isin(wrong, among)]
        if len(wrong):
            return wrong if len(wrong) <= MOST else wrong[torch.linspace(0, len(wrong) - 1, MOST).long()]
    losses = study.losses("test")[among]
    return among[losses.sort(descending=True, stable=True).indices[:MOST]].sort().values
