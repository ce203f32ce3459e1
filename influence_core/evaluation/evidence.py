"""The evidence of a comparison, kind by kind: each puts its columns on the sheet, with numbers or reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from influence_core.applications import Detection, detect
from influence_core.evaluation.agreement import SIDES, Side, agreement
from influence_core.evaluation.candidates import REFUSALS, Candidate, said
from influence_core.evaluation.linear_datamodelling import LDS, lds
from influence_core.evaluation.rank_correlation import RankCorrelation, rank_correlation
from influence_core.evaluation.retraining import Retrained
from influence_core.evaluation.sheet import Sheet, columns_of, empty, percent
from influence_core.evaluation.top_removal import TopRemoval
from influence_core.scores import Scores
from influence_core.study import Study

COST = ("expected_seconds", "fit_seconds", "influence_seconds", "mislabel_seconds", "peak_memory_mib")
SECONDS = {"influence": "influence_seconds", "mislabel_scores": "mislabel_seconds"}


def cost(sheet: Sheet, candidates: Sequence[Candidate], whats: Sequence[str]) -> None:
    """Seconds of fit and of each answer, peak memory, and the seconds that were expected.

    Args:
        sheet: to write on.
        candidates: that were asked.
        whats: public methods that were asked for.
    """
    asked = [SECONDS[what] for what in whats]
    sheet.add(column for column in COST if column not in SECONDS.values() or column in asked)
    for one in candidates:
        foreseen = one.expected.seconds if one.expected is not None else None
        unknown = one.refused.get("expected", "the estimator does not say what it will do")
        if not {*whats} & {*one.estimator.gives()}:
            unknown = one.why_not(whats[0])
        cells: dict[str, float | str | None] = {"expected_seconds": unknown if foreseen is None else foreseen}
        memory = []
        for what in whats:
            scores = one.answers.get(what)
            cells[SECONDS[what]] = one.why_not(what) if scores is None else float(scores.meta["seconds"])
            if scores is not None and scores.meta["peak_memory_mib"] is not None:
                memory.append(float(scores.meta["peak_memory_mib"]))
        fitted = getattr(one.estimator, "fit_cost_", None)
        nothing = one.why_not(whats[0])
        cells["fit_seconds"] = nothing if fitted is None else fitted.seconds
        told = "the system does not tell how much memory a process takes" if one.answers else nothing
        cells["peak_memory_mib"] = max(memory) if memory else told
        sheet.put(one.name, cells)


def shared(
    sheet: Sheet, candidates: Sequence[Candidate], test_ids: Tensor, k: int
) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    """How much of their top k the estimators share and how alike their orders are, mean over test images and others.

    Args:
        sheet: to write on.
        candidates: that were asked for influence.
        test_ids: of the test images.
        k: images on each side.

    Returns:
        Share of the top k that two estimators have in common, mean over both sides, and Spearman's rank correlation,
        each [n, n] and a mean over test images; ``None`` where fewer than two answered.
    """
    columns = (f"top_{k}_shared_percent", "correlation_with_others_percent")
    sheet.add(columns)
    answered = [one for one in candidates if "influence" in one.answers]
    for one in candidates:
        if one not in answered:
            sheet.put(one.name, empty(columns, one.why_not("influence")))
    if len(answered) < 2:
        for one in answered:
            sheet.put(one.name, empty(columns, "no other estimator gives influence here"))
        return None, None
    names, scores = [one.name for one in answered], [one.answers["influence"] for one in answered]
    overlaps, correlations = [], []
    for test_id in test_ids.tolist():
        found = agreement(scores, test_id, k)
        counts = [found.overlap(side).to_numpy(float) for side in SIDES]
        overlaps.append(sum(count / count.diagonal().max() for count in counts) / len(SIDES))
        correlations.append(found.correlation.to_numpy(float, copy=True))
    known = np.isfinite(correlations)
    mean = np.where(known, correlations, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    correlation = np.where(known.any(0), mean, np.nan)
    overlap = np.mean(overlaps, axis=0)
    others = ~np.eye(len(names), dtype=bool)
    for row, name in enumerate(names):
        alike = correlation[row][others[row]]
        alike = alike[np.isfinite(alike)]
        mean_correlation = 100 * float(alike.mean()) if alike.size else "all its scores for a test image are equal"
        sheet.put(name, {columns[0]: 100 * float(overlap[row][others[row]].mean()), columns[1]: mean_correlation})
    frames = [pd.DataFrame(100 * values, index=names, columns=names) for values in (overlap, correlation)]
    return frames[0], frames[1]


def by_subsets(
    study: Study, sheet: Sheet, candidates: Sequence[Candidate], retrained: Retrained, test_ids: Tensor, seed: int
) -> dict[str, LDS]:
    """The linear datamodelling score on the test images that both sides know.

    Args:
        study: that is explained.
        sheet: to write on.
        candidates: that were asked for influence.
        retrained: losses after training on subsets.
        test_ids: of the test images.
        seed: of the bootstrap.

    Returns:
        Name -> score, of those that have one.
    """
    both = [j for j, i in enumerate(retrained.test_ids.tolist()) if bool((test_ids == i).any())]
    judge = replace(retrained, losses=retrained.losses[:, both], test_ids=retrained.test_ids[both])
    columns, found = columns_of("lds", "percent"), {}
    sheet.add(columns)
    for one in candidates:
        if "influence" not in one.answers:
            sheet.put(one.name, empty(columns, one.why_not("influence")))
            continue
        try:
            found[one.name] = lds(study, one.answers["influence"], judge, seed)
        except REFUSALS as error:
            sheet.put(one.name, empty(columns, said(error)))
        else:
            sheet.put(one.name, percent("lds", found[one.name].value, found[one.name].interval))
    return found


def by_leaving_out(
    sheet: Sheet, candidates: Sequence[Candidate], left_out: Scores, test_ids: Tensor, seed: int
) -> dict[str, RankCorrelation]:
    """Spearman's correlation with leave-one-out over the images that were left out, mean over test images.

    Args:
        sheet: to write on.
        candidates: that were asked for influence.
        left_out: of ``leave_one_out``.
        test_ids: of the test images.
        seed: of the bootstrap over images and test images together.

    Returns:
        Name -> correlation, of those that have one.
    """
    columns, found = columns_of("leave_one_out", "percent"), {}
    sheet.add(columns)
    known = set(left_out.test_ids.tolist()) if left_out.test_ids is not None else set()
    both = [i for i in test_ids.tolist() if i in known]
    observed = torch.stack([left_out.column(i) for i in both], 1)
    for one in candidates:
        if "influence" not in one.answers:
            sheet.put(one.name, empty(columns, one.why_not("influence")))
            continue
        scores = one.answers["influence"]
        predicted = torch.stack([scores.column(i) for i in both], 1)[left_out.train_ids]
        found[one.name] = rank_correlation(predicted, observed, seed)
        sheet.put(one.name, percent("leave_one_out", found[one.name].value, found[one.name].interval))
    return found


def by_labels(study: Study, sheet: Sheet, candidates: Sequence[Candidate], seed: int) -> dict[str, Detection]:
    """Areas under the curves of wrong labels found, where the true ones are known.

    Args:
        study: whose labels are looked at.
        sheet: to write on.
        candidates: that were asked for mislabel scores.
        seed: of the bootstrap.

    Returns:
        Name -> detection, of those that have areas.
    """
    columns, found = (*columns_of("auc", "percent"), *columns_of("ap", "percent")), {}
    sheet.add(columns)
    for one in candidates:
        if "mislabel_scores" not in one.answers:
            sheet.put(one.name, empty(columns, one.why_not("mislabel_scores")))
            continue
        judged = detect(study, one.answers["mislabel_scores"], seed=seed)
        assert judged.auc is not None
        assert judged.ap is not None
        assert judged.auc_interval is not None
        assert judged.ap_interval is not None
        found[one.name] = judged
        sheet.put(one.name, percent("auc", judged.auc, judged.auc_interval))
        sheet.put(one.name, percent("ap", judged.ap, judged.ap_interval))
    return found


def by_removal(
    sheet: Sheet,
    candidates: Sequence[Candidate],
    train: Callable[[Mapping[str, Scores]], dict[tuple[str, Side], TopRemoval]],
) -> dict[tuple[str, Side], TopRemoval]:
    """Change of the loss of the explained images without those that an estimator ranks first.

    Args:
        sheet: to write on.
        candidates: that were asked for influence.
        train: name -> influence: trains again, and says what each removal did.

    Returns:
        (Name, side) -> what it did.
    """
    found = train({one.name: one.answers["influence"] for one in candidates if "influence" in one.answers})
    for side in SIDES:
        columns = columns_of(f"{side}_removed", "nats")
        sheet.add(columns)
        for one in candidates:
            if (one.name, side) not in found:
                sheet.put(one.name, empty(columns, one.why_not("influence")))
                continue
            did = found[one.name, side]
            sheet.put(one.name, {columns[0]: did.value})
            if did.interval is None:
                sheet.put(one.name, empty(columns[1:], "an interval takes two seeds or more"))
            else:
                sheet.put(one.name, dict(zip(columns[1:], did.interval, strict=True)))
    return found


def without_truth(study: Study) -> str | None:
    """Why nothing can be said of wrong labels found; ``None`` where it can."""
    wrong = study.train.corrupted if study.classes is not None else None
    if wrong is None:
        return "the training set has no true labels (LabelledDataset(..., true_labels=...))"
    if not bool(wrong.any()) or bool(wrong.all()):
        return f"all {len(wrong)} labels of the training set are {'wrong' if bool(wrong.any()) else 'right'}"
    return None
