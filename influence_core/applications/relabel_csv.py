"""Relabel tables as CSV files that survive spreadsheets, and say so if they were cut off."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from influence_core.errors import InvalidInput
from influence_core.files import write_whole, writing

SCHEMA_VERSION = "2"
FORMER = "1"
TEXT = {
    "schema_version", "run_id", "sample_id", "split", "filepath", "sha256", "given_label", "predicted_label",
    "suggested_label", "final_label", "quality_source", "method", "decision", "reviewer", "reviewed_at", "tags", "note",
}  # fmt: skip
COLUMNS = [
    "schema_version", "run_id", "sample_id", "index", "split", "filepath", "sha256", "given_label", "predicted_label",
    "suggested_label", "final_label", "is_label_issue", "label_quality", "suggestion_quality", "quality_source",
    "score", "method", "rank", "decision", "reviewer", "reviewed_at", "tags", "note",
]  # fmt: skip
"""The columns of CSV version 2, in order.

``label_quality`` is from 0 to 1, low for bad labels: the probability that ``given_label`` is right.
``suggestion_quality`` is the probability that ``suggested_label`` is right, and empty where it is not known.
``quality_source`` says how they are known: "planted flips" (learnt from clean images, see ``CalibratedDetector``) or
"mixture" (a guess from the scores alone, see ``mixture``). ``score`` is the estimator's own number, large for bad
labels, and ``rank`` its order, of which ``label_quality`` is the reverse.

Version 1 is still read. Its ``label_quality`` was the probability that the study's model gives to ``given_label``
(cleanlab's "self_confidence"), which it was trained on; ``quality_source`` of such rows is "self-confidence".
"""
NEW = {"suggestion_quality": "", "quality_source": "self-confidence"}
"""Columns that version 1 had not, and what stands in them for its rows."""

DECISIONS = ("relabel", "keep", "exclude", "unsure", "")
"""What a reviewer may say; empty is not reviewed yet."""

_ROWS = re.compile(r"-of-([0-9]{1,12})$")
_MOST_SHOWN = 80
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")


def write_csv(table: pd.DataFrame, path: str | Path, class_names: Sequence[str] | None = None) -> Path:
    """Write a relabel table as CSV version 2 (UTF-8, LF, RFC 4180).

    A cell of text that a spreadsheet would run as a formula (it begins with = + - @, a tab or a quote) gets a leading
    ``'``, which ``read_csv`` takes away again. Each ``run_id`` ends in the number of rows, ``-of-101``, so that a file
    that was cut off is noticed.

    Args:
        table: from ``relabel``, perhaps reviewed.
        path: file to write, whole or not at all.
        class_names: if given, ``classes.json`` beside the file says which number each name stands for.

    Returns:
        The file.

    Raises:
        InvalidInput: if the disk is full, the folder cannot be written or a text cannot be encoded.
    """
    path = Path(path)
    with writing(path):
        text = to_csv(table).encode()
        if class_names is not None:
            numbers = {name: number for number, name in enumerate(class_names)}
            write_whole(path.with_name("classes.json"), json.dumps(numbers, indent=1, ensure_ascii=False).encode())
        write_whole(path, text)
    return path


def to_csv(table: pd.DataFrame) -> str:
    """The text that ``write_csv`` writes."""
    _check_columns(list(table.columns), "the table")
    safe = table[COLUMNS].copy()
    for column in TEXT:
        safe[column] = [_protect(cell) for cell in _texts(safe[column])]
    safe["run_id"] = [f"{_ROWS.sub('', run)}-of-{len(safe)}" if run else "" for run in safe["run_id"]]
    if any("\r" in cell for column in TEXT for cell in safe[column]):  # which pandas by itself writes without quotes
        return safe.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    return safe.to_csv(index=False, lineterminator="\n")


def read_csv(path: str | Path, complete: bool = True) -> pd.DataFrame:
    """Read a relabel CSV, with every text as it was before ``write_csv``.

    Args:
        path: the file, perhaps edited by hand or in a spreadsheet.
        complete: refuse a file with fewer rows than it was written with.

    Returns:
        The table.

    Raises:
        InvalidInput: if a column or rows are missing, rows are of two runs, a number or a decision cannot be read, or
            the version is another.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline()
    if header.count(";") >= len(COLUMNS) - 1 > header.count(","):
        raise InvalidInput(
            f"{path} is separated by semicolons, as some spreadsheets save CSV: save it with commas "
            "(in LibreOffice: field delimiter ,), or convert it: pandas.read_csv(path, sep=';', dtype=str, "
            "keep_default_na=False).to_csv(path, index=False)"
        )
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{path} is not in UTF-8, as spreadsheets save “Unicode text” or plain CSV: save it as CSV UTF-8 ({error})"
        ) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InvalidInput(f"{path} cannot be read as UTF-8 CSV: {str(error).strip()}") from error
    table = _of_this_version(table, str(path))
    table = table[(table != "").any(axis=1)].reset_index(drop=True)  # spreadsheets leave rows of commas alone
    for column in TEXT:
        table[column] = [cell[1:] if cell.startswith("'") else cell for cell in _texts(table[column])]
    if complete:
        _check_complete(table, path)
    return typed(table, str(path))


def _check_complete(table: pd.DataFrame, path: Path) -> None:
    """Refuse a file that has fewer rows than it says, or ends within a row."""
    counts = sorted({int(found[1]) for run in table["run_id"] if (found := _ROWS.search(run))})
    said, suffixes = sum(counts), ", ".join(f"'-of-{count}'" for count in counts)
    if len(table) < said:
        raise InvalidInput(
            f"{path} has {len(table)} of {said} rows, {said - len(table)} are missing: it was cut off, or rows were "
            "deleted. Copy it again; rows that are to have no effect keep an empty decision. If they were deleted on "
            f"purpose, take {suffixes} out of the column run_id; to filter a table with pandas, read it with "
            "ic.applications.read_relabels(path) first, and write it with write_relabels, which counts anew"
        )
    text = path.read_text(encoding="utf-8-sig")
    cells = next(csv.reader([re.split(r"[\r\n]", text)[-1]]), [])  # of the last line; none if it ends as a line does
    if 0 < len(cells) < len(COLUMNS) and not any("\n" in cell for column in TEXT for cell in table[column].tail(1)):
        raise InvalidInput(f"{path} ends within its last row, after {len(cells)} cells: it was cut off, copy it again")


def _check_columns(columns: list[str], what: str, version: str = SCHEMA_VERSION) -> None:
    wanted = COLUMNS if version == SCHEMA_VERSION else [column for column in COLUMNS if column not in NEW]
    missing = [column for column in wanted if column not in columns]
    if missing:
        raise InvalidInput(f"{what} lacks the columns {', '.join(missing)} of relabel CSV version {version}")


def _of_this_version(table: pd.DataFrame, what: str) -> pd.DataFrame:
    """A table of this version or of the former one, as one of this version."""
    if "schema_version" not in table.columns or not (table["schema_version"].astype(str) == FORMER).any():
        _check_columns(list(table.columns), what)
        return table
    _check_columns(list(table.columns), what, FORMER)
    old = table["schema_version"].astype(str) == FORMER
    table = table.copy()
    for column, value in NEW.items():
        table[column] = value if column not in table.columns else table[column].mask(old, value)
    table["schema_version"] = table["schema_version"].mask(old, SCHEMA_VERSION)
    return table


def typed(table: pd.DataFrame, what: str) -> pd.DataFrame:
    """A copy in the columns and types of ``relabel``, whoever edited ``table`` in between.

    Args:
        table: to check.
        what: its name, for messages.

    Returns:
        The copy.

    Raises:
        InvalidInput: if a column is missing or a cell cannot be read.
    """
    table = _of_this_version(table, what)[COLUMNS].copy()
    for column in TEXT:
        table[column] = _texts(table[column])
    table["run_id"] = [_ROWS.sub("", run) for run in table["run_id"]]
    versions = set(table["schema_version"]) - {SCHEMA_VERSION}
    if versions:
        raise InvalidInput(
            f"{what} is schema version {versions.pop()!r}, this package reads {FORMER!r} and {SCHEMA_VERSION!r}"
        )
    known = [not pd.isna(cell) and cell != "" for cell in table["suggestion_quality"]]
    table["suggestion_quality"] = [
        _number(cell, float, "suggestion_quality", row, what) if there else float("nan")
        for row, (cell, there) in enumerate(zip(table["suggestion_quality"], known, strict=True), start=2)
    ]
    for column, kind in (("index", int), ("rank", int), ("score", float), ("label_quality", float)):
        table[column] = [_number(cell, kind, column, row, what) for row, cell in enumerate(table[column], start=2)]
    table["decision"] = [cell.strip().lower() for cell in table["decision"]]
    booleans = {"true": True, "false": False}
    for row, cell in enumerate(table["is_label_issue"], start=2):
        if str(cell).lower() not in booleans:
            raise InvalidInput(f"line {row} of {what}: is_label_issue is {_cut(cell)}, expected True or False")
    table["is_label_issue"] = [booleans[str(cell).lower()] for cell in table["is_label_issue"]]
    for row, cell in enumerate(table["decision"], start=2):
        if cell not in DECISIONS:
            raise InvalidInput(
                f"line {row} of {what}: decision is {_cut(cell)}, expected one of {', '.join(DECISIONS[:-1])}"
            )
    return table


def _texts(cells: pd.Series) -> list[str]:
    """Cells as text; a missing one is empty."""
    return ["" if pd.isna(cell) else str(cell) for cell in cells]


def _protect(cell: str) -> str:
    return "'" + cell if cell.startswith(_FORMULA) else cell


def _number(cell: Any, kind: type, column: str, row: int, what: str) -> Any:
    try:
        number = kind(cell)
        if kind is float or isinstance(cell, str) or number == cell:  # 814.0 of pandas is 814, 814.7 is a mistake
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    wanted = "a number without a fraction" if kind is int else "a number"
    raise InvalidInput(f"line {row} of {what}: {column} is {_cut(cell)}, expected {wanted}")


def _cut(cell: Any) -> str:
    text = repr(cell)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
