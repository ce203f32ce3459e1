"""Group effects: what summed influences say of groups that are left out together, and what retraining says."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from influence_core.errors import InvalidInput
from influence_core.estimators import Estimator
from influence_core.evaluation.asked import asked_influence
from influence_core.evaluation.correlation import Floats, centred, correlations, ranks, resampled
from influence_core.evaluation.groups import Groups
from influence_core.evaluation.retraining import Retrained
from influence_core.scores import Scale, Scores
from influence_core.study import Study


@dataclass(frozen=True, eq=False)
class GroupEffects:
    """Predicted and actual changes of test losses without groups of training images.

    Attributes:
        name: of the estimator.
        scale: of its scores.
        table: one row for each kind and share of groups: kind, share, size (mean), groups, spearman, low and high (its
            95 % interval), pearson, slope and sign; see ``group_effects``.
        predicted: by summed influences, float64 [G, M].
        actual: by retraining, float64 [G, M].
        groups: that were left out.
    """

    name: str
    scale: Scale
    table: pd.DataFrame
    predicted: Tensor = field(repr=False)
    actual: Tensor = field(repr=False)
    groups: Groups = field(repr=False)

    def sentences(self) -> list[str]:
        """What it means, in plain words and without markup."""
        found = []
        for row in self.table.to_dict("records"):
            what = "single images" if row["kind"] == "single" else f"groups of {row['size']:g} ({row['kind']})"
            size = "" if np.isnan(row["slope"]) else f", predicted sizes are {row['slope']:.2g} of the actual ones"
            found.append(f"{what[0].upper()}{what[1:]}: rank correlation {row['spearman']:.2f}{size}.")
        if self.scale == "rank only":
            found.append(f"Only the order of what {self.name} predicts means something.")
        return found

    def __repr__(self) -> str:
        """Estimator, groups and the range of rank correlations."""
        low, high = self.table["spearman"].min(), self.table["spearman"].max()
        count = f"{len(self.predicted)} groups, {self.predicted.shape[1]} test images"
        return f"GroupEffects({self.name}: {count}, rank correlation {low:.2f} to {high:.2f})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the meaning, and the table."""
        lines = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences())
        return f"<ul>{lines}</ul>{self.table.to_html(index=False, float_format='{:.2g}'.format)}"


def group_effects(
    study: Study, scores: Scores | Estimator, groups: Groups, retrained: Retrained, seed: int = 0
) -> GroupEffects:
    r"""Predicted against actual effects of groups of training images.

    Koh et al. 2019, "On the accuracy of influence functions for measuring group effects", section 4. The effect of a
    group is the change of a test loss when it is left out; predicted is the sum of its influences, actual is the loss
    without the group less that of a model trained with everything (and the same seeds). Over the groups of one kind and
    share and the test images there are

    - ``spearman`` and ``pearson``: the correlation over the groups, mean over the test images, between -1 and 1;
    - ``slope``: :math:`\sum p\,a / \sum a^2` of predicted p and actual a, all pairs together: 1 where sizes are right,
      0.1 where a tenth is predicted. Chance in training lowers it. Missing where scores are "rank only";
    - ``sign``: share of all pairs in which both have one sign; chance gives about a half.

    Influence keeps the divisor N of the mean loss. A recipe that takes the mean over the images that are left gives
    them, beside a weight decay, more weight each: that is another, common change, which the larger groups show.

    Args:
        study: that was explained.
        scores: influence of all training images on the test images of ``retrained``; or an estimator, which is fitted
            on ``study`` unless it already is.
        groups: from ``draw_groups``.
        retrained: ``retrain_subsets(study, retrain, groups.kept, test)``; all estimators can share it.
        seed: of the resampling behind the interval.

    Returns:
        The comparison.

    Raises:
        NotSupported: if the scores are of another kind.
        InvalidInput: if the retrainings are of other groups, or scores do not fit them.
        StaleResult: if scores or retrainings belong to another study.
    """
    retrained.check(study)
    if not torch.equal(retrained.kept, groups.kept):
        raise InvalidInput(
            "the retrainings are of other groups: call ic.evaluation.retrain_subsets(study, retrain, groups.kept) again"
        )
    found = asked_influence(study, scores, retrained.test_ids, "a comparison of group effects")
    predicted = groups.removed.double() @ found.values.double()
    actual = (retrained.losses[1:] - retrained.losses[:1]).double()
    rows = []
    for (kind, share), part in groups.table.groupby(["kind", "share"], sort=False, dropna=False):
        ids = part.index.tolist()
        row = {"kind": kind, "share": share, "size": part["size"].mean(), "groups": len(ids)}
        rows.append(row | _compared(predicted[ids].numpy(), actual[ids].numpy(), found.scale, seed))
    return GroupEffects(found.name, found.scale, pd.DataFrame(rows), predicted, actual, groups)


def _compared(predicted: Floats, actual: Floats, scale: Scale, seed: int) -> dict[str, Any]:
    """The figures of one kind and share; both are [groups, M]."""
    one, two = ranks(predicted), ranks(actual)
    means = resampled(one, two, seed)
    low, high = np.percentile(means, [2.5, 97.5])
    squares = float((actual**2).sum())
    known = scale == "nats" and squares > 0
    return {
        "spearman": float(correlations(one, two).mean()),
        "low": float(low),
        "high": float(high),
        "pearson": float(correlations(_unit(predicted), _unit(actual)).mean()),
        "slope": float((predicted * actual).sum()) / squares if known else float("nan"),
        "sign": float((np.sign(predicted) == np.sign(actual)).mean()),
    }


def _unit(columns: Floats) -> Floats:
    """Columns less their means, with a deviation of 1; zero where they are constant."""
    rows = centred(columns)
    deviation = rows.std(0)
    unit: Floats = rows / np.where(deviation > 1e-12 * np.abs(columns).max(0), deviation, np.inf)
    return unit
