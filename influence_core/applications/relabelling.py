"""Relabel suggestions as a table, and the way from a reviewed table back into a dataset."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from influence_core.applications.detection import detect
from influence_core.applications.relabel_csv import COLUMNS, SCHEMA_VERSION, read_csv, typed
from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput, StaleResult
from influence_core.estimators.together import EstimatorLike, fitted_on
from influence_core.scores import Scores
from influence_core.study import SPLITS, Study

EMPTY_NAME = '""'
"""What ``final_label`` says for the class whose name is empty, because an empty cell takes the suggestion."""


def relabel(
    study: Study, estimator: EstimatorLike, threshold: float | None = None, scores: Scores | None = None
) -> pd.DataFrame:
    """Suggest a label for every training image, the most suspicious first.

    The suggestion is the label with the largest label influence where the estimator gives it, and else the model's
    prediction. An image is flagged if its mislabel score is above the threshold.

    Args:
        study: the study.
        estimator: fitted on ``study``; one that is not, or a name, is fitted first.
        threshold: flag scores above it; Otsu's by default.
        scores: the estimator's mislabel scores where they are there already; by default they are asked for.

    Returns:
        One row per training image, in the columns of ``COLUMNS``. ``score`` is the estimator's own number, by which
        rows are ranked and flagged. ``label_quality``, 0 to 1 and low for bad labels, is the probability that the given
        label is right: learnt from planted flips with ``CalibratedDetector``, which says ``suggestion_quality`` as
        well, and else a guess from the scores alone (``mixture``), without one for the suggestion.

    Raises:
        NotSupported: if the estimator gives no mislabel scores.
        StaleResult: if it was fitted on another study.
    """
    estimator = fitted_on(study, estimator)
    scores = estimator.mislabel_scores() if scores is None else scores
    if scores.meta["study"] != study.fingerprint:
        raise StaleResult(f"this {estimator.title} was fitted on another study: call .fit(study) again")
    if "label_influence" not in estimator.gives():
        return relabel_table(study, scores, study.predictions("train"), threshold=threshold)
    labels = estimator.label_influence()
    return relabel_table(study, scores, *suggestions(labels), threshold=threshold)


def suggestions(labels: Scores) -> tuple[Tensor, Tensor | None]:
    """What each image should be called, and how likely that is right.

    Args:
        labels: influence of each label, [N, K].

    Returns:
        The label with the largest influence, int64 [N]; and that influence where it is a probability, else ``None``.
    """
    best = labels.values.max(1)
    return best.indices, best.values.double() if labels.scale == "probability" else None


def relabel_table(
    study: Study,
    scores: Scores,
    suggested: Tensor,
    suggested_right: Tensor | None = None,
    *,
    threshold: float | None = None,
) -> pd.DataFrame:
    """The table of ``relabel`` from scores and suggestions that are there already.

    Args:
        study: the study.
        scores: mislabel scores of all training images.
        suggested: one label per training image, int64 [N].
        suggested_right: how likely each of them is right, [N]; ``None`` where it is not known.
        threshold: flag scores above it; Otsu's by default.

    Returns:
        As ``relabel``.
    """
    data, detection = study.train, detect(study, scores, threshold)
    names = study.class_names
    order = torch.sort(scores.values, descending=True, stable=True).indices.tolist()
    predicted = study.predictions("train").tolist()
    flagged = set(detection.flagged.tolist())
    quality = (1 - detection.probabilities).tolist()
    sure = [float("nan")] * len(data) if suggested_right is None else suggested_right.double().tolist()
    run = run_id(study, scores)
    rows = [
        {
            "schema_version": SCHEMA_VERSION,
            "run_id": run,
            "sample_id": f"train-{i:06d}" if data.sample_ids is None else data.sample_ids[i],
            "index": i,
            "split": "train",
            "filepath": data.filepath(i),
            "sha256": data.sample_sha256(i),
            "given_label": names[int(data.labels[i])],
            "predicted_label": names[predicted[i]],
            "suggested_label": names[int(suggested[i])],
            "final_label": "",
            "is_label_issue": i in flagged,
            "label_quality": quality[i],
            "suggestion_quality": sure[i],
            "quality_source": detection.quality.source,
            "score": float(scores.values[i]),
            "method": scores.name,
            "rank": rank,
            "decision": "",
            "reviewer": "",
            "reviewed_at": "",
            "tags": "",
            "note": "",
        }
        for rank, i in enumerate(order, start=1)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def run_id(study: Study, scores: Scores) -> str:
    """Short name of where a table comes from: study and estimator with its parameters."""
    settings = json.dumps([scores.name, scores.meta.get("parameters", {})], sort_keys=True, default=str)
    return f"{study.fingerprint[:8]}-{scores.name}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"


def apply_relabels(
    dataset: LabelledDataset,
    table: pd.DataFrame | str | Path,
    accept: Literal["reviewed", "flagged"] = "reviewed",
    on_conflict: Literal["error", "skip"] = "error",
    run_id: str | None = None,
) -> LabelledDataset:
    """Put the decisions of a relabel table into a dataset.

    Args:
        dataset: the training set the table was made from.
        table: a table, or the path of its CSV.
        accept: "reviewed" follows ``decision``: relabel takes ``final_label`` (or the suggestion where that is empty),
            exclude drops the image, the rest stays; a class whose name is empty is chosen by ``final_label`` ``""``,
            two quotes. "flagged" takes the suggestion of every flagged image without review.
        on_conflict: "error" refuses a table that does not match ``dataset``; "skip" leaves those rows out.
        run_id: refuse a table of another run than this, see ``run_id``; by default any run on this data will do.

    Returns:
        A new dataset. ``dataset`` does not change.

    Raises:
        InvalidInput: if a row's image, given label, split or SHA-256 is not that of ``dataset``, two rows are about one
            image, rows are of two runs or missing, or a label is no class.
    """
    labels, keep = decided(dataset, table, accept, on_conflict, run_id)
    changed = dataset.with_labels(labels)
    return changed if bool(keep.all()) else changed.subset(keep.nonzero().flatten())


def decided(
    dataset: LabelledDataset,
    table: pd.DataFrame | str | Path,
    accept: Literal["reviewed", "flagged"] = "reviewed",
    on_conflict: Literal["error", "skip"] = "error",
    run_id: str | None = None,
) -> tuple[Tensor, Tensor]:
    """What a relabel table decides; see ``apply_relabels``.

    Args:
        dataset: the training set the table was made from.
        table: a table, or the path of its CSV.
        accept: whose decisions.
        on_conflict: what to do with rows that do not match.
        run_id: refuse a table of another run.

    Returns:
        The label of every image, int64 [N], and which of them are kept, bool [N].

    Raises:
        InvalidInput: as ``apply_relabels``.
    """
    complete = on_conflict == "error"
    rows = typed(table, "the table") if isinstance(table, pd.DataFrame) else read_csv(table, complete=complete)
    _check_runs(rows, run_id)
    if accept not in ("reviewed", "flagged") or on_conflict not in ("error", "skip"):
        raise InvalidInput(f"accept={accept!r}, on_conflict={on_conflict!r}: choose reviewed or flagged, error or skip")
    names = dataset.class_names or _numbers(dataset, rows)
    for column in ("given_label", "predicted_label", "suggested_label", "final_label"):
        rows[column] = [_as_named(cell, names) for cell in rows[column]]
    seen: set[int] = set()
    labels, keep = dataset.labels.clone(), torch.ones(len(dataset), dtype=torch.bool)
    for row in rows.to_dict("records"):
        conflict = _conflict(dataset, names, row, seen)
        if conflict:
            if on_conflict == "error":
                raise InvalidInput(
                    f"the table does not match the dataset: {conflict}{_hint(table, row)}. Nothing was changed."
                )
            continue
        index = row["index"]
        seen.add(index)
        if accept == "reviewed" and row["decision"] == "exclude":
            keep[index] = False
        elif (accept == "reviewed" and row["decision"] == "relabel") or (accept == "flagged" and row["is_label_issue"]):
            wanted = row["suggested_label"] if accept == "flagged" else _final_label(row, names)
            if wanted not in names:
                raise InvalidInput(f"{row['sample_id']} is to become {wanted!r}, which is none of {', '.join(names)}")
            labels[index] = names.index(wanted)
    return labels, keep


def _check_runs(rows: pd.DataFrame, wanted: str | None) -> None:
    """Refuse rows of two runs, whose suggestions and flags are not comparable, or of another than was asked for."""
    runs = sorted(set(rows["run_id"]) - {""})
    if len(runs) > 1:
        raise InvalidInput(f"the table has rows of {len(runs)} runs, {runs[0]} and {runs[1]}: give one table at a time")
    if wanted is not None and runs != [wanted]:
        raise InvalidInput(f"the table is of the run {', '.join(runs) or 'without a name'}, expected {wanted}")


def _final_label(row: dict[Any, Any], names: list[str]) -> str:
    """What a reviewer chose; where a class has an empty name, its own cell says so with two quotes."""
    chosen = str(row["final_label"])
    if "" not in names:
        return chosen or str(row["suggested_label"])
    if not chosen:
        raise InvalidInput(
            f"{row['sample_id']} is to be relabelled without a final_label, and there is a class with an empty name: "
            f"write {EMPTY_NAME} (two quotes) for that class, or the suggested label {row['suggested_label']!r}"
        )
    return chosen[2:] if set(chosen) == {'"'} and len(chosen) > 1 else chosen  # a name of quotes alone has two more


def _conflict(dataset: LabelledDataset, names: list[str], row: dict[Any, Any], seen: set[int]) -> str:
    index = row["index"]
    if not 0 <= index < len(dataset):
        return f"{row['sample_id']} has index {index}, the dataset ends at {len(dataset) - 1}"
    if index in seen:
        return f"{row['sample_id']} is there twice"
    given = names[int(dataset.labels[index])]
    if row["given_label"] != given:
        return f"{row['sample_id']} was given {row['given_label']!r} in the table but {given!r} in the dataset"
    known = dataset.sample_sha256, dataset.input_sha256  # a table of a study that held the inputs has the second
    if row["sha256"] and all(row["sha256"] != sha256(index) for sha256 in known):
        return f"{row['sample_id']} is another image in the dataset (its SHA-256 differs)"
    if row["split"] and dataset.name in SPLITS and row["split"] != dataset.name:
        return f"{row['sample_id']} is of the {row['split']} set, the dataset is the {dataset.name} set"
    if dataset.sample_ids is not None and row["sample_id"] != dataset.sample_ids[index]:
        return f"{row['sample_id']} has index {index}, where the dataset has {dataset.sample_ids[index]}"
    numbered = re.fullmatch(r"(train|validation|test)-([0-9]+)", row["sample_id"])
    if (
        dataset.sample_ids is None
        and numbered
        and (numbered[1] != (row["split"] or numbered[1]) or int(numbered[2]) != index)
    ):
        return f"{row['sample_id']} has index {index} of the {row['split']} set: the row was mixed up"
    return ""


def _hint(table: Any, row: dict[Any, Any]) -> str:
    """What to do about a frame whose texts are not those of the file: pandas takes NA for nothing, and keeps quotes."""
    texts = [str(row[column]) for column in ("given_label", "sample_id")]
    if not isinstance(table, pd.DataFrame) or not any(text == "" or text.startswith("'") for text in texts):
        return ""
    return "; if the table is from a file, read it with ic.applications.read_relabels(path), which keeps every text"


def _as_named(cell: str, names: list[str]) -> str:
    """A label, also where pandas made a number of it: a column of 3 and empty cells is written as 3.0."""
    return cell.removesuffix(".0") if cell not in names and cell.removesuffix(".0") in names else cell


def _numbers(dataset: LabelledDataset, rows: pd.DataFrame) -> list[str]:
    """The names of classes that have none: their numbers, up to the largest that occurs."""
    cells = {cell.removesuffix(".0") for column in ("suggested_label", "final_label") for cell in rows[column]}
    named = {cell for cell in cells if cell.isdecimal()}
    return [str(k) for k in range(1 + max([int(dataset.labels.max()), *map(int, named)]))]
