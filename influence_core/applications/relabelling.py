"""Relabel suggestions as a table, a CSV file that survives spreadsheets, and the way back into a dataset."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from influence_core.applications.detection import detect
from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput, StaleResult
from influence_core.estimators import Estimator
from influence_core.scores import Scores
from influence_core.study import Study

SCHEMA_VERSION = "1"
TEXT = {
    "schema_version", "run_id", "sample_id", "split", "filepath", "sha256", "given_label", "predicted_label",
    "suggested_label", "final_label", "method", "decision", "reviewer", "reviewed_at", "tags", "note",
}  # fmt: skip
COLUMNS = [
    "schema_version", "run_id", "sample_id", "index", "split", "filepath", "sha256", "given_label", "predicted_label",
    "suggested_label", "final_label", "is_label_issue", "label_quality", "score", "method", "rank", "decision",
    "reviewer", "reviewed_at", "tags", "note",
]  # fmt: skip
"""The columns of CSV version 1, in order."""

DECISIONS = ("relabel", "keep", "exclude", "unsure", "")
"""What a reviewer may say; empty is not reviewed yet."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")


def relabel(
    study: Study, estimator: Estimator, threshold: float | None = None, scores: Scores | None = None
) -> pd.DataFrame:
    """Suggest a label for every training image, the most suspicious first.

    The suggestion is the label with the largest label influence where the estimator gives it, and else the model's
    prediction. An image is flagged if its mislabel score is above the threshold.

    Args:
        study: the study.
        estimator: fitted on ``study``.
        threshold: flag scores above it; Otsu's by default.
        scores: the estimator's mislabel scores where they are there already; by default they are asked for.

    Returns:
        One row per training image, in the columns of ``COLUMNS``. ``label_quality`` is the share of images that are at
        least as suspicious, from nearly 0 (worst) to 1; ``score`` is the estimator's own number.

    Raises:
        NotSupported: if the estimator gives no mislabel scores.
        StaleResult: if it was fitted on another study.
    """
    scores = estimator.mislabel_scores() if scores is None else scores
    if scores.meta["study"] != study.fingerprint:
        raise StaleResult(f"this {estimator.title} was fitted on another study: call .fit(study) again")
    if "label_influence" in estimator.gives():
        suggested = estimator.label_influence().values.argmax(1)
    else:
        suggested = study.predictions("train")
    return relabel_table(study, scores, suggested, threshold)


def relabel_table(study: Study, scores: Scores, suggested: Tensor, threshold: float | None = None) -> pd.DataFrame:
    """The table of ``relabel`` from scores and suggestions that are there already.

    Args:
        study: the study.
        scores: mislabel scores of all training images.
        suggested: one label per training image, int64 [N].
        threshold: flag scores above it; Otsu's by default.

    Returns:
        As ``relabel``.
    """
    data, detection = study.train, detect(study, scores, threshold)
    names = study.class_names
    order = torch.sort(scores.values, descending=True, stable=True).indices.tolist()
    predicted = study.predictions("train").tolist()
    flagged = set(detection.flagged.tolist())
    ranks = pd.Series(scores.values.double().numpy()).rank(method="max", ascending=False)
    run = run_id(study, scores)
    rows = [
        {
            "schema_version": SCHEMA_VERSION,
            "run_id": run,
            "sample_id": f"train-{i:06d}",
            "index": i,
            "split": "train",
            "filepath": data.filepath(i),
            "sha256": data.sample_sha256(i),
            "given_label": names[int(data.labels[i])],
            "predicted_label": names[predicted[i]],
            "suggested_label": names[int(suggested[i])],
            "final_label": "",
            "is_label_issue": i in flagged,
            "label_quality": float(ranks[i]) / len(data),
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


def write_csv(table: pd.DataFrame, path: str | Path, class_names: Sequence[str] | None = None) -> Path:
    """Write a relabel table as CSV version 1 (UTF-8, LF, RFC 4180).

    A cell of text that a spreadsheet would run as a formula (it begins with = + - @, a tab or a quote) gets a leading
    ``'``, which ``read_csv`` takes away again.

    Args:
        table: from ``relabel``, perhaps reviewed.
        path: file to write, whole or not at all.
        class_names: if given, ``classes.json`` beside the file says which number each name stands for.

    Returns:
        The file.
    """
    path = Path(path)
    if class_names is not None:
        numbers = {name: number for number, name in enumerate(class_names)}
        path.with_name("classes.json").write_text(json.dumps(numbers, indent=1, ensure_ascii=False), encoding="utf-8")
    part = path.with_name(path.name + ".tmp")
    part.write_text(to_csv(table), encoding="utf-8", newline="")
    part.replace(path)
    return path


def to_csv(table: pd.DataFrame) -> str:
    """The text that ``write_csv`` writes."""
    _check_columns(list(table.columns), "the table")
    safe = table[COLUMNS].copy()
    for column in TEXT:
        safe[column] = [_protect(cell) for cell in _texts(safe[column])]
    if any("\r" in cell for column in TEXT for cell in safe[column]):  # which pandas by itself writes without quotes
        return safe.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    return safe.to_csv(index=False, lineterminator="\n")


def read_csv(path: str | Path) -> pd.DataFrame:
    """Read a relabel CSV, with every text as it was before ``write_csv``.

    Args:
        path: the file, perhaps edited by hand or in a spreadsheet.

    Returns:
        The table.

    Raises:
        InvalidInput: if a column is missing, a number or a decision cannot be read, or the version is another.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read as UTF-8 CSV: {str(error).strip()}") from error
    _check_columns(list(table.columns), str(path))
    for column in TEXT:
        table[column] = [cell[1:] if cell.startswith("'") else cell for cell in _texts(table[column])]
    return _typed(table, str(path))


def apply_relabels(
    dataset: LabelledDataset,
    table: pd.DataFrame | str | Path,
    accept: Literal["reviewed", "flagged"] = "reviewed",
    on_conflict: Literal["error", "skip"] = "error",
) -> LabelledDataset:
    """Put the decisions of a relabel table into a dataset.

    Args:
        dataset: the training set the table was made from.
        table: a table, or the path of its CSV.
        accept: "reviewed" follows ``decision``: relabel takes ``final_label`` (or the suggestion where that is empty),
            exclude drops the image, the rest stays. "flagged" takes the suggestion of every flagged image without
            review.
        on_conflict: "error" refuses a table that does not match ``dataset``; "skip" leaves those rows out.

    Returns:
        A new dataset. ``dataset`` does not change.

    Raises:
        InvalidInput: if a row's image, given label or SHA-256 is not that of ``dataset``, two rows are about one
            image, or a label is no class.
    """
    rows = _typed(table, "the table") if isinstance(table, pd.DataFrame) else read_csv(table)
    if accept not in ("reviewed", "flagged") or on_conflict not in ("error", "skip"):
        raise InvalidInput(f"accept={accept!r}, on_conflict={on_conflict!r}: choose reviewed or flagged, error or skip")
    names = dataset.class_names or _numbers(dataset, rows)
    seen: set[int] = set()
    labels, keep = dataset.labels.clone(), torch.ones(len(dataset), dtype=torch.bool)
    for row in rows.to_dict("records"):
        conflict = _conflict(dataset, names, row, seen)
        if conflict:
            if on_conflict == "error":
                raise InvalidInput(f"the table does not match the dataset: {conflict}. Nothing was changed.")
            continue
        index = row["index"]
        seen.add(index)
        if accept == "reviewed" and row["decision"] == "exclude":
            keep[index] = False
        elif (accept == "reviewed" and row["decision"] == "relabel") or (accept == "flagged" and row["is_label_issue"]):
            wanted = row["suggested_label"] if accept == "flagged" else row["final_label"] or row["suggested_label"]
            if wanted not in names:
                raise InvalidInput(f"{row['sample_id']} is to become {wanted!r}, which is none of {', '.join(names)}")
            labels[index] = names.index(wanted)
    changed = dataset.with_labels(labels)
    return changed if bool(keep.all()) else changed.subset(keep.nonzero().flatten())


def _conflict(dataset: LabelledDataset, names: list[str], row: dict[Any, Any], seen: set[int]) -> str:
    index = row["index"]
    if not 0 <= index < len(dataset):
        return f"{row['sample_id']} has index {index}, the dataset ends at {len(dataset) - 1}"
    if index in seen:
        return f"{row['sample_id']} is there twice"
    given = names[int(dataset.labels[index])]
    if row["given_label"] != given:
        return f"{row['sample_id']} was given {row['given_label']!r} in the table but {given!r} in the dataset"
    if row["sha256"] and row["sha256"] != dataset.sample_sha256(index):
        return f"{row['sample_id']} is another image in the dataset (its SHA-256 differs)"
    return ""


def _check_columns(columns: list[str], what: str) -> None:
    missing = [column for column in COLUMNS if column not in columns]
    if missing:
        raise InvalidInput(f"{what} lacks the columns {', '.join(missing)} of relabel CSV version {SCHEMA_VERSION}")


def _typed(table: pd.DataFrame, what: str) -> pd.DataFrame:
    """A copy in the columns and types of ``relabel``, whoever edited ``table`` in between."""
    _check_columns(list(table.columns), what)
    table = table[COLUMNS].copy()
    for column in TEXT:
        table[column] = _texts(table[column])
    versions = set(table["schema_version"]) - {SCHEMA_VERSION}
    if versions:
        raise InvalidInput(f"{what} is schema version {versions.pop()!r}, this package reads {SCHEMA_VERSION!r}")
    for column, kind in (("index", int), ("rank", int), ("score", float), ("label_quality", float)):
        table[column] = [_number(cell, kind, column, row, what) for row, cell in enumerate(table[column], start=2)]
    booleans = {"true": True, "false": False}
    for row, cell in enumerate(table["is_label_issue"], start=2):
        if str(cell).lower() not in booleans:
            raise InvalidInput(f"line {row} of {what}: is_label_issue is {cell!r}, expected True or False")
    table["is_label_issue"] = [booleans[str(cell).lower()] for cell in table["is_label_issue"]]
    for row, cell in enumerate(table["decision"], start=2):
        if cell not in DECISIONS:
            raise InvalidInput(
                f"line {row} of {what}: decision is {cell!r}, expected one of {', '.join(DECISIONS[:-1])}"
            )
    return table


def _texts(cells: pd.Series) -> list[str]:
    """Cells as text; a missing one is empty."""
    return ["" if pd.isna(cell) else str(cell) for cell in cells]


def _numbers(dataset: LabelledDataset, rows: pd.DataFrame) -> list[str]:
    """The names of classes that have none: their numbers, up to the largest that occurs."""
    named = {cell for column in ("suggested_label", "final_label") for cell in rows[column] if cell.isdecimal()}
    return [str(k) for k in range(1 + max([int(dataset.labels.max()), *map(int, named)]))]


def _protect(cell: str) -> str:
    return "'" + cell if cell.startswith(_FORMULA) else cell


def _number(cell: Any, kind: type, column: str, row: int, what: str) -> Any:
    try:
        return kind(cell)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"line {row} of {what}: {column} is {cell!r}, expected a number") from error
