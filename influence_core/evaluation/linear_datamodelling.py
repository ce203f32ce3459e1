"""The linear datamodelling score: do summed influences predict what a model trained on a subset does?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from influence_core.applications.detection import Interval
from influence_core.errors import InvalidInput
from influence_core.estimators import Estimator
from influence_core.evaluation.asked import asked_influence
from influence_core.evaluation.rank_correlation import interval_of, rank_correlation
from influence_core.evaluation.retraining import Retrained
from influence_core.scores import Scores
from influence_core.study import Study


@dataclass(frozen=True, eq=False)
class LDS:
    """A linear datamodelling score.

    Attributes:
        name: of the estimator.
        value: mean rank correlation over test images, -1 to 1.
        interval: bootstrap over subsets and test images together, 95 %.
        per_test: rank correlation of each test image, float64 [M].
        test_ids: int64 [M].
        resampled: the means of the bootstrap, float64.
    """

    name: str
    value: float
    interval: Interval
    per_test: Tensor
    test_ids: Tensor
    resampled: Tensor = field(repr=False)

    def __repr__(self) -> str:
        """Value and interval in per cent."""
        return f"LDS({self.name}: {100 * self.value:.1f} % (95 %: {self.interval}), {len(self.per_test)} test images)"


def lds(study: Study, scores: Scores | Estimator, retrained: Retrained, seed: int = 0) -> LDS:
    r"""Linear datamodelling score (Park et al. 2023, "TRAK", section 2, definition 2.3).

    The influence of a set is the sum over its images. For each test image, the predictions
    :math:`\sum_{z \in S} h(z, z')` over random subsets S are compared with the outputs of models trained on them, by
    Spearman's rank correlation. The output is minus the loss, which for cross-entropy ranks as the margin does.

    The interval is from 2000 resamples of subsets and test images together; ranks are those among all subsets. It does
    not know of other seeds of training: a subset's model is one draw, and its noise lowers the score of every
    estimator alike (more ``seeds`` in ``retrain_subsets`` raise the ceiling).

    Args:
        study: that was explained.
        scores: influence of all training images on at least the test images of ``retrained``; or an estimator, which
            is fitted on ``study`` unless it already is.
        retrained: from ``retrain_subsets``; all estimators can share it.
        seed: of the bootstrap.

    Returns:
        The score with its interval. A test image for which either side is constant counts as 0.

    Raises:
        NotSupported: if the scores are of another kind.
        InvalidInput: if they do not cover the training set, or a test image is missing.
        StaleResult: if scores or retrainings belong to another study.
    """
    retrained.check(study)
    scores = asked_influence(study, scores, retrained.test_ids, "a linear datamodelling score")
    if len(retrained.kept) < 3:
        raise InvalidInput(f"{len(retrained.kept)} subsets give no rank correlation; 50 or more are sensible")
    found = rank_correlation(retrained.kept.double() @ scores.values.double(), -retrained.losses.double(), seed)
    means = torch.from_numpy(found.resampled)
    return LDS(scores.name, found.value, found.interval, found.per_column, retrained.test_ids, means)


def combine(parts: Sequence[LDS]) -> LDS:
    """The mean over independent studies, such as seeds.

    Args:
        parts: one per study, of one estimator.

    Returns:
        Mean, with the interval of the mean; the test images of all of them one after the other.

    Raises:
        InvalidInput: if there is none, or they are of several estimators.
    """
    names = {part.name for part in parts}
    if len(names) != 1:
        raise InvalidInput(f"expected scores of one estimator, got {', '.join(sorted(names)) or 'none'}")
    value = sum(part.value for part in parts) / len(parts)
    resampled = torch.stack([part.resampled for part in parts]).mean(0)
    per_test, ids = (torch.cat([getattr(part, name) for part in parts]) for name in ("per_test", "test_ids"))
    return LDS(names.pop(), value, interval_of(resampled.numpy()), per_test, ids, resampled)
