"""The evidence that a comparison of estimators gathered, as plain parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
from torch import Tensor

from influence_core.applications import Detection
from influence_core.estimators import Estimator
from influence_core.evaluation.agreement import Side
from influence_core.evaluation.linear_datamodelling import LDS
from influence_core.evaluation.rank_correlation import RankCorrelation
from influence_core.evaluation.retraining import Retrained
from influence_core.evaluation.top_removal import TopRemoval
from influence_core.scores import Scores


@dataclass(frozen=True, eq=False)
class Findings:
    """Several estimators on one study, and the evidence for each.

    Attributes:
        title: name of the study.
        test_ids: the test images that were explained, int64 [M].
        k: of the top k.
        measured: the kinds of evidence: of "cost", "agreement", "lds", "leave_one_out", "detection", "removal".
        table: one row per estimator, in the order they were given. The unit is in the name of each column; 95 %
            intervals are in columns with low and high. An empty cell is NaN, and ``why_empty`` says why. Which columns
            there are depends on what was measured:

            expected_seconds (of fit and influence together, before they began), fit_seconds, influence_seconds,
            mislabel_seconds, peak_memory_mib;
            top_k_shared_percent and correlation_with_others_percent (Spearman's, means over the other estimators);
            lds_percent; leave_one_out_percent (Spearman's over the images left out, mean over test images);
            auc_percent, ap_percent; helpful_removed_nats, harmful_removed_nats (change of the loss of the explained
            images without the images with most and least influence, against as many random ones; good estimators have
            a positive and a negative number).
        reasons: (estimator, column) -> why the cell is empty.
        estimators: name -> the estimator, fitted unless it refused.
        influence: name -> scores of the explained images.
        shared: per cent of the top k that two estimators share, [n, n]; ``None`` of fewer than two.
        correlation: Spearman's rank correlation between them in per cent, [n, n]; likewise.
        lds: name -> linear datamodelling score.
        left_out: name -> correlation with leave-one-out.
        detections: name -> detection of wrong labels; ``ic.figures.roc(list(detections.values()))`` draws them.
        removals: (name, side) -> what leaving out the top did.
        retrained: the trainings on subsets behind the LDS, to be given to the next comparison.
        leave_one_out: the trainings behind the other correlation, likewise.
        absent: kind of evidence that was asked for and could not be had -> why.
    """

    title: str
    test_ids: Tensor
    k: int
    measured: tuple[str, ...]
    table: pd.DataFrame
    reasons: Mapping[tuple[str, str], str] = field(repr=False)
    estimators: Mapping[str, Estimator] = field(repr=False)
    influence: Mapping[str, Scores] = field(repr=False)
    shared: pd.DataFrame | None = field(default=None, repr=False)
    correlation: pd.DataFrame | None = field(default=None, repr=False)
    lds: Mapping[str, LDS] = field(default_factory=dict, repr=False)
    left_out: Mapping[str, RankCorrelation] = field(default_factory=dict, repr=False)
    detections: Mapping[str, Detection] = field(default_factory=dict, repr=False)
    removals: Mapping[tuple[str, Side], TopRemoval] = field(default_factory=dict, repr=False)
    retrained: Retrained | None = field(default=None, repr=False)
    leave_one_out: Scores | None = field(default=None, repr=False)
    absent: Mapping[str, str] = field(default_factory=dict, repr=False)
