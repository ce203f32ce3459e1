"""Decisions about labels put into the user's own files: a folder of pictures, a CSV or a Parquet file."""

from __future__ import annotations

import csv
import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from influence_core.applications.relabel_csv import COLUMNS
from influence_core.applications.relabelling import apply_relabels, decided
from influence_core.data import EncodedImages, LabelledDataset, image_folder, image_table
from influence_core.errors import InvalidInput, NotSupported
from influence_core.files import keep, temporary, writing

Changes = dict[int, str | None]
"""Number of a sample in the folder or table -> its new class, or ``None`` where it is left out."""


@dataclass(frozen=True)
class Mended:
    """What was written.

    Attributes:
        path: of the mended folder or table.
        relabelled: samples that have another label now.
        excluded: samples that are left out.
        backup: of what was there before; ``None`` for a copy.
    """

    path: Path
    relabelled: int
    excluded: int
    backup: Path | None = None


def mend_files(
    dataset: LabelledDataset,
    table: pd.DataFrame | str | Path,
    out: str | Path | None = None,
    *,
    in_place: bool = False,
    accept: Literal["reviewed", "flagged"] = "reviewed",
) -> Mended:
    """Put the decisions of a relabel table into a copy of the folder or table that a dataset was read from.

    In a folder, a picture with a new label lies in the folder of its class, under another name where that is taken. In
    a table its label is another, and all else stays. Pictures of the folder or table that the dataset does not have
    (its other splits) stay as they are. The copy is there as a whole or not at all.

    Args:
        dataset: the training set that the table was made from, read by ``image_folder`` or ``image_table``.
        table: a reviewed table, or the path of its CSV.
        out: where to write; nothing may be there.
        in_place: put it in the place of the original instead, which stays beside it as a backup with the time in its
            name.
        accept: as in ``apply_relabels``.

    Returns:
        What was written.

    Raises:
        InvalidInput: if the table does not match the dataset, ``out`` is there already or missing, or the disk is full.
        NotSupported: if the dataset was not read from a folder, a CSV or a Parquet file.
    """
    below, ids = dataset.root()
    origin = below.origin if isinstance(below, EncodedImages) else None
    if origin is None or origin.format not in ("folder", "table"):
        raise NotSupported(
            f"the {dataset.name} set was read from no folder, CSV or Parquet file, so there is no file to mend: "
            "ic.applications.apply_relabels(study.train, table) mends the dataset, and influence retrain takes the CSV"
        )
    if (out is None) != in_place:
        raise InvalidInput("say where to write, out=PATH, or in_place=True to replace the original; not both")
    source = Path(origin.path)
    target = source if out is None else Path(out)
    if not in_place and (target.exists() or target.is_symlink()):
        raise InvalidInput(f"{target} is there already: choose another name, or remove it first")
    labels, kept = decided(dataset, table, accept)
    changes: Changes = {}
    for index in range(len(dataset)):
        place = index if ids is None else ids[index]
        if not kept[index]:
            changes[place] = None
        elif labels[index] != dataset.labels[index]:
            changes[place] = dataset.class_name(int(labels[index]))
    write = _folder if origin.format == "folder" else _table
    with writing(target):
        backup = write(below, dataset, changes, source, target, in_place)
    excluded = sum(new is None for new in changes.values())
    return Mended(target, len(changes) - excluded, excluded, backup)


def read_mended(dataset: LabelledDataset, path: str | Path) -> LabelledDataset:
    """A training set with mended labels: from a reviewed relabel CSV, or from files that were mended.

    Pictures of a mended folder or table are known again by the SHA-256 of their files, wherever they lie there; one
    that is missing is left out.

    Args:
        dataset: the training set as it was.
        path: of the CSV, folder or table.

    Returns:
        The mended dataset; inputs and preprocessing are those of ``dataset``.

    Raises:
        InvalidInput: if the CSV does not match, none of the pictures is there, or one is there with two labels.
        NotSupported: if files are given for a dataset that was not read from encoded pictures.
    """
    path = Path(path)
    if _is_relabel_csv(path):
        return apply_relabels(dataset, path)
    below, _ = dataset.root()
    if not isinstance(below, EncodedImages) or below.origin is None:
        raise NotSupported(
            f"the {dataset.name} set was not read from picture files, so its samples cannot be found in {path}: give "
            "the reviewed relabel CSV"
        )
    names = dataset.class_names
    if path.is_dir():
        mended = image_folder(path, class_names=names)
    else:
        facts = below.origin.facts
        named = {key: facts[key] for key in ("label", "sample_id", "filepath", "root") if key in facts}
        mended = image_table(path, file=facts.get("image", "file"), class_names=names, **named)
    found: dict[str, int] = {}
    for index in range(len(mended)):
        digest, label = mended.sample_sha256(index), int(mended.labels[index])
        if found.setdefault(digest, label) != label:
            raise InvalidInput(
                f"{mended.filepath(index)} of {path} is there twice, as {mended.class_name(found[digest])} and as "
                f"{mended.class_name(label)}: remove one of them, or give the reviewed relabel CSV"
            )
    wanted = [found.get(dataset.sample_sha256(index)) for index in range(len(dataset))]
    kept = torch.tensor([label is not None for label in wanted])
    if not bool(kept.any()):
        raise InvalidInput(f"none of the {len(dataset)} {dataset.name} pictures is in {path}: give the mended copy")
    labels = torch.tensor(
        [own if new is None else new for own, new in zip(dataset.labels.tolist(), wanted, strict=True)]
    )
    changed = dataset.with_labels(labels)
    return changed if bool(kept.all()) else changed.subset(kept)


def _is_relabel_csv(path: Path) -> bool:
    if not path.is_file() or path.suffix.lower() != ".csv":
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return set(COLUMNS) <= set(file.readline().strip().split(","))


def _backup_of(path: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = [f"{path.name}.backup-{stamp}", *(f"{path.name}.backup-{stamp}-{n}" for n in range(2, 100))]
    return next(path.with_name(name) for name in names if not path.with_name(name).exists())


def _folder(
    below: EncodedImages, dataset: LabelledDataset, changes: Changes, source: Path, target: Path, in_place: bool
) -> Path | None:
    names = getattr(below.source, "names")  # noqa: B009  # of ``Files``, which every folder is
    moves = {names[place]: new for place, new in changes.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        shutil.copytree(source, part, copy_function=_linked if in_place else shutil.copy2, symlinks=True)
        for name, new in moves.items():
            file = part / name
            if new is None:
                file.unlink()
                continue
            below_class = Path(name).relative_to(Path(name).parts[0])
            goal = part / new / below_class
            goal.parent.mkdir(parents=True, exist_ok=True)
            file.rename(goal if not goal.exists() else _free(goal))
        if not in_place:
            part.rename(target)
            return None
        backup = _backup_of(source)
        source.rename(backup)
        part.rename(source)
        return backup
    finally:
        if part.exists():
            shutil.rmtree(part, ignore_errors=True)


def _linked(source: str, target: str) -> None:
    """A second name for a file, which is never written to; a copy where the disk knows none."""
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)


def _free(file: Path) -> Path:
    return next(p for n in range(2, 10**6) if not (p := file.with_name(f"{file.stem}-{n}{file.suffix}")).exists())


def _table(
    below: EncodedImages, dataset: LabelledDataset, changes: Changes, source: Path, target: Path, in_place: bool
) -> Path | None:
    origin = below.origin
    assert origin is not None
    named = origin.class_names is not None
    numbers = {name: str(number) for number, name in enumerate(dataset.class_names or ())}
    written = {
        _row(below, place): (None if new is None else new if named else numbers.get(new, new))
        for place, new in changes.items()
    }
    kind = source.suffix.lower()
    kinds: dict[str, Callable[..., None]] = {".csv": _write_csv, ".tsv": _write_csv, ".parquet": _write_parquet}
    if kind not in kinds:
        raise NotSupported(f"a mended copy of {source} cannot be written; CSV and Parquet files can: convert it first")
    moved = target.parent.absolute() != source.parent.absolute()
    folder = Path(origin.facts.get("root", source.parent)) if moved else None
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary(target.parent, target.name) as part:
        kinds[kind](source, part, origin.facts["label"], origin.facts["image"], written, folder, target.parent)
        if not in_place:
            keep(part, target)
            return None
        backup = _backup_of(source)
        shutil.copy2(source, backup)
        keep(part, target)
        return backup


def _row(below: EncodedImages, place: int) -> int:
    """The row of the table that a sample is, where a column said which rows to take."""
    rows = getattr(below, "table_rows_", None)
    if rows is None:
        origin = below.origin
        assert origin is not None
        if "splits" in origin.facts:
            from influence_core.data.columns import read_table

            column = read_table(Path(origin.path), [origin.facts["split"]]).column(origin.facts["split"]).to_pylist()
            rows = [i for i, cell in enumerate(column) if str(cell) in origin.facts["splits"]]
        else:
            rows = range(len(below))
        below.table_rows_ = rows  # type: ignore[attr-defined]  # read once
    return int(rows[place])


def _elsewhere(cell: str, folder: Path, parent: Path) -> str:
    """The path of a picture as it is to be written in another folder."""
    return cell if Path(cell).is_absolute() else Path(os.path.relpath(folder / cell, parent)).as_posix()


def _write_csv(
    source: Path, part: Path, label: str, image: str, written: dict[int, str | None], folder: Path | None, parent: Path
) -> None:
    apart = "\t" if source.suffix.lower() == ".tsv" else ","
    with source.open(encoding="utf-8-sig", newline="") as file:
        text = file.read()
    ending = "\r\n" if "\r\n" in text.partition("\n")[0] + "\n" else "\n"
    header, *rows = [row for row in csv.reader(text.splitlines(keepends=True), delimiter=apart) if row]
    at, picture = header.index(label), header.index(image)
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=apart, lineterminator=ending)
        writer.writerow(header)
        for number, row in enumerate(rows):
            new = written.get(number, row[at])
            if new is None:
                continue
            row[at] = new
            row[picture] = row[picture] if folder is None else _elsewhere(row[picture], folder, parent)
            writer.writerow(row)


def _write_parquet(
    source: Path, part: Path, label: str, image: str, written: dict[int, str | None], folder: Path | None, parent: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table: Any = pq.read_table(source)
    kind = table.schema.field(label).type
    number = pa.types.is_integer(kind)
    cells = table.column(label).to_pylist()
    for row, new in written.items():
        if new is not None:
            cells[row] = int(new) if number else new
    table = table.set_column(table.schema.get_field_index(label), table.schema.field(label), pa.array(cells, type=kind))
    if folder is not None and pa.types.is_string(table.schema.field(image).type):
        paths = [cell and _elsewhere(cell, folder, parent) for cell in table.column(image).to_pylist()]
        table = table.set_column(table.schema.get_field_index(image), image, pa.array(paths, type=pa.string()))
    gone = {row for row, new in written.items() if new is None}
    if gone:
        table = table.take(pa.array([row for row in range(len(table)) if row not in gone]))
    pq.write_table(table, part, compression="zstd")
