"""Columns of CSV, Parquet, Arrow and Feather files, read as data and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from influence_core.errors import InvalidInput
from influence_core.files import sha256_of

_MOST_ROWS = 10**9
_MOST_HELD = 1 << 30


@dataclass(frozen=True, eq=False)
class Table:
    """Some columns of a file.

    Attributes:
        path: of the file.
        columns: name -> column of pyarrow.
        sha256: of the file.
    """

    path: Path
    columns: dict[str, Any]
    sha256: str

    def __len__(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values())))

    def column(self, name: str) -> Any:
        """The column called ``name``."""
        return self.columns[name]

    def is_text(self, name: str) -> bool:
        """Whether a column holds texts, dictionary-encoded ones too."""
        import pyarrow as pa

        return pa.types.is_string(self.columns[name].type) or pa.types.is_large_string(self.columns[name].type)


def read_table(path: Path, wanted: Sequence[str], numbers: Sequence[str] = ()) -> Table:
    """Read columns of a table.

    Args:
        path: ``.csv``, ``.tsv``, ``.arrow``, ``.feather`` or ``.ipc``; anything else has to be Parquet.
        wanted: names of columns.
        numbers: those that are integers in a CSV where each cell is one; the others stay as they are written there.

    Returns:
        The columns.

    Raises:
        InvalidInput: if there is no such file or column, or the file is none of these.
    """
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}")
    kind = path.suffix.lower()
    names, sha256 = list(dict.fromkeys(wanted)), sha256_of(path)
    if kind in (".csv", ".tsv"):
        columns = _csv(path, names, numbers)
    else:
        columns = (_arrow if kind in (".arrow", ".feather", ".ipc") else _parquet)(path, names)
    if not len(next(iter(columns.values()))):
        raise InvalidInput(f"{path} has no rows")
    return Table(path, columns, sha256)


def label_column(table: Table, name: str, rows: np.ndarray, classes: list[str] | None) -> Tensor:
    """A column of labels as numbers.

    Args:
        table: with the column.
        name: of the column.
        rows: which rows.
        classes: names of the classes, for a column of names.

    Returns:
        int64 [rows].

    Raises:
        InvalidInput: if a cell is empty, or no class.
    """
    import pyarrow as pa

    column, path = table.column(name), table.path
    if table.is_text(name) and not column.null_count:
        numbers = {c: k for k, c in enumerate(classes or [])}
        cells = column.take(rows).to_pylist()
        for row, cell in zip(rows.tolist(), cells, strict=True):
            if cell not in numbers:
                raise InvalidInput(
                    f"row {row} of {path} has the {name} {cell!r}, which is none of the classes "
                    f"{', '.join(list(numbers)[:12])}"
                )
        return torch.tensor([numbers[cell] for cell in cells], dtype=torch.int64)
    if not pa.types.is_integer(column.type) or column.null_count:
        raise InvalidInput(
            f"column {name!r} of {path} is {column.type} with {column.null_count} empty cells, expected an integer or "
            "the name of a class in every row"
        )
    return torch.from_numpy(column.to_numpy().astype(np.int64)[rows])


def text_column(table: Table, name: str, rows: np.ndarray) -> list[str]:
    """A column as texts, an empty cell as an empty one."""
    return ["" if cell is None else str(cell) for cell in table.column(name).take(rows).to_pylist()]


def _missing(path: Path, wanted: Sequence[str], have: Sequence[str]) -> None:
    for column in wanted:
        if column not in have:
            raise InvalidInput(f"{path} has no column {column!r}; its columns are {', '.join(map(str, have))}")


def check_inflation(file: Any, path: Path) -> None:
    """Refuse a small Parquet file that would fill the memory.

    Args:
        file: opened with pyarrow; only its metadata have been read.
        path: for the message.

    Raises:
        InvalidInput: if it says that it has a thousand million rows, or a hundred times its own size in data.
    """
    facts, size = file.metadata, path.stat().st_size
    held = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
    if facts.num_rows > _MOST_ROWS or held > max(_MOST_HELD, 100 * size):
        raise InvalidInput(
            f"{path} has {size:,} bytes and says that it holds {facts.num_rows:,} rows with {held:,} bytes: it would "
            "fill the memory, so it was not read. Write it anew, without compression that is as strong"
        )


def _parquet(path: Path, wanted: list[str]) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:  # a file alone: a folder of its name says nothing about it
            _missing(path, wanted, file.schema_arrow.names)
            check_inflation(file, path)
            table = file.read(columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{path} is no complete Parquet file ({_first(error)})") from error
    return {column: _decoded(table[column]) for column in wanted}


def _arrow(path: Path, wanted: list[str]) -> dict[str, Any]:
    import pyarrow as pa

    try:
        with path.open("rb") as file:
            try:
                table = pa.ipc.open_file(file).read_all()
            except pa.ArrowInvalid:  # Hugging Face writes the other kind, a stream
                file.seek(0)
                table = pa.ipc.open_stream(file).read_all()
    except (pa.ArrowException, OSError, EOFError) as error:
        raise InvalidInput(f"{path} is no complete Arrow or Feather file ({_first(error)})") from error
    _missing(path, wanted, table.column_names)
    return {column: _decoded(table[column]) for column in wanted}


def _csv(path: Path, wanted: list[str], numbers: Sequence[str]) -> dict[str, Any]:
    import pandas as pd
    import pyarrow as pa

    try:
        frame = pd.read_csv(
            path, sep="\t" if path.suffix.lower() == ".tsv" else ",", dtype=str, keep_default_na=False,
            encoding="utf-8-sig",
        )  # fmt: skip
    except (ValueError, OSError) as error:  # of which pandas' own errors and those of UTF-8 are
        raise InvalidInput(f"{path} cannot be read as UTF-8 CSV: {_first(error)}") from error
    _missing(path, wanted, list(frame.columns))
    columns = {}
    for name in wanted:
        cells = frame[name].tolist()
        number = [cell.isascii() and cell.isdigit() and len(cell) < 10 for cell in cells]
        digits = name in numbers and bool(cells) and all(number)
        columns[name] = pa.chunked_array([pa.array([int(c) for c in cells] if digits else cells)])
    return columns


def _decoded(column: Any) -> Any:
    """A column without dictionary, and views as plain ones."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if kind == pa.string_view():
        kind = pa.string()
    if kind == pa.binary_view():
        kind = pa.binary()
    return column if kind == column.type else column.cast(kind)


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
