"""Ids and scores as Parquet, for pandas, DuckDB and whatever else reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from influence_core.files import keep, temporary, writing

WIDE = 2_000
"""Columns of a table at most; of more test images the extreme scores alone are written."""

TOP = 100
"""Of each side."""

_ROWS, _TESTS = 8192, 64


def write_scores(folder: Path, values: Tensor, names: Sequence[str]) -> Path:
    """Write ``scores.parquet``: ``train_id``, then a column for each name; some rows are in memory at a time.

    Args:
        folder: to write into.
        values: [N] or [N, columns].
        names: of the columns.

    Returns:
        The file.

    Raises:
        InvalidInput: if it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, columns = folder / "scores.parquet", values if values.ndim > 1 else values[:, None]
    kind = pa.float64() if values.dtype == torch.float64 else pa.float32()
    schema = pa.schema([("train_id", pa.int64()), *((name, kind) for name in names)])
    with writing(path), temporary(folder, path.name) as part:
        with pq.ParquetWriter(part, schema) as writer:
            for begin in range(0, len(columns), _ROWS):
                some = columns[begin : begin + _ROWS]
                some = some if some.dtype == torch.float64 else some.float()
                arrays = [pa.array(range(begin, begin + len(some)), pa.int64())]
                arrays += [pa.array(some[:, c].numpy(), kind) for c in range(len(names))]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        keep(part, path)
    return path


def write_top(folder: Path, values: Tensor, test_ids: Sequence[int]) -> Path:
    """Write ``top.parquet``: for each test image the most harmful and most helpful training images.

    Args:
        folder: to write into.
        values: [N, M]; a column is in memory at a time.
        test_ids: of the columns.

    Returns:
        The file, with ``test_id``, ``side`` ("harmful" or "helpful"), ``rank`` from 1 on, ``train_id`` and ``score``.

    Raises:
        InvalidInput: if it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("test_id", "side", "rank", "train_id", "score")
    kinds = (pa.int64(), pa.string(), pa.int32(), pa.int64(), pa.float64())
    schema, path = pa.schema(list(zip(names, kinds, strict=True))), folder / "top.parquet"
    with writing(path), temporary(folder, path.name) as part:
        with pq.ParquetWriter(part, schema) as writer:
            for begin in range(0, len(test_ids), _TESTS):
                rows: list[list[Any]] = [[] for _ in names]
                for place, test_id in enumerate(test_ids[begin : begin + _TESTS], start=begin):
                    _extend(rows, test_id, values[:, place].double())
                arrays = [pa.array(row, one.type) for row, one in zip(rows, schema, strict=True)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        keep(part, path)
    return path


def _extend(rows: list[list[Any]], test_id: int, column: Tensor) -> None:
    count = min(TOP, len(column))
    for side, helpful in (("harmful", False), ("helpful", True)):
        order = torch.sort(column, descending=helpful, stable=True).indices[:count]
        more: list[list[Any]] = [
            [test_id] * count,
            [side] * count,
            list(range(1, count + 1)),
            order.tolist(),
            column[order].tolist(),
        ]
        for row, added in zip(rows, more, strict=True):
            row.extend(added)
