"""Tables as datasets: one row per picture, as a path or as the bytes of its file, in CSV, Parquet, Arrow or Feather."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from influence_core.data.columns import Table, label_column, read_table, text_column
from influence_core.data.dataset import LabelledDataset
from influence_core.data.encoded import EncodedImages, Origin
from influence_core.data.images import Transform, checked_path
from influence_core.data.opening import check_plain
from influence_core.data.preprocessing import preprocessing
from influence_core.data.sources import Files, Rows
from influence_core.errors import InvalidInput


def image_table(
    path: str | Path,
    *,
    file: str = "file",
    label: str = "label",
    true_label: str | None = None,
    sample_id: str | None = None,
    split: str | None = None,
    splits: str | Sequence[str] | None = None,
    root: str | Path | None = None,
    filepath: str | None = None,
    class_names: Sequence[str] | None = None,
    transform: Transform | None = None,
    size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    name: str = "images",
) -> LabelledDataset:
    """Read a table with one row per picture.

    Args:
        path: a CSV file (UTF-8, with a header), or a Parquet, Arrow or Feather file.
        file: column with the path of the picture, relative to the table's own folder; or with the bytes of its file,
            or with Hugging Face's struct of ``bytes`` and ``path``.
        label: column with the given label, a number from 0 or the name of a class. In a CSV, cells that are all digits
            are numbers.
        true_label: column with the label known to be right, where there is one.
        sample_id: column with a name of each sample for exports, all different.
        split: column that says which part a row belongs to ("train", "test").
        splits: the part to take, or several of them.
        root: folder that the paths count from, instead of the table's own.
        filepath: column with the text to show as a picture's path in exports; by default its path, or ``table#row``.
        class_names: the classes in the order of the labels; by default the names that occur, sorted.
        transform: as in ``image_folder``, instead of the next three.
        size: (height, width) to resize to; needed unless all pictures have one size.
        mean: of each channel; one value for grey, three for colour.
        std: of each channel.
        name: what messages call it.

    Returns:
        The dataset, in the order of the table.

    Raises:
        InvalidInput: if the file or a column is missing or of another kind, or a picture is missing.
    """
    path = checked_path(path)
    if (split is None) != (splits is None):
        raise InvalidInput('split names the column and splits what to take of it: split="split", splits="train"')
    named = {"label": label, "true_label": true_label, "sample_id": sample_id, "split": split, "filepath": filepath}
    wanted = [file, *(column for column in named.values() if column is not None)]
    table = read_table(path, wanted, [column for column in (label, true_label) if column is not None])
    chosen = [splits] if isinstance(splits, str) else None if splits is None else list(splits)
    rows = np.arange(len(table)) if split is None or chosen is None else _rows(table, split, chosen)
    way = preprocessing(transform, size, mean, std, name)
    given, truth, classes = _labels(table, rows, label, true_label, class_names)
    texts = {key: text_column(table, column, rows) for key in ("sample_id", "filepath") if (column := named[key])}
    column = table.column(file).take(rows) if len(rows) < len(table) else table.column(file)
    folder = path.absolute().parent if root is None else Path(root).absolute()
    shown: Sequence[str] = texts.get("filepath") or [f"{path.name}#{row}" for row in rows.tolist()]
    source: Files | Rows
    if table.is_text(file):
        names = column.to_pylist()
        if None in names:
            raise InvalidInput(f"column {file!r} of {path} is empty in row {int(rows[names.index(None)])}")
        source = Files(folder, names)
        _check_files(source, path, rows)
        shown = texts.get("filepath") or names
    else:
        _check_bytes(column, file, path, rows)
        source = Rows(column, shown)
    origin = Origin(
        "table",
        path.absolute(),
        {"image": file, **{k: v for k, v in named.items() if v is not None}}
        | ({} if chosen is None else {"splits": chosen})
        | ({} if root is None else {"root": folder}),
        given,
        truth,
        table.sha256,
        classes if table.is_text(label) else None,
        shown,
        texts.get("sample_id"),
    )
    images = EncodedImages(source, given, preprocessing=way, origin=origin)
    return LabelledDataset(
        images,
        true_labels=truth,
        class_names=classes,
        pictures=images.picture,
        filepaths=shown,
        sample_ids=texts.get("sample_id"),
        name=name,
    )


def parquet_images(
    path: str | Path,
    *,
    image: str = "image",
    label: str = "label",
    true_label: str | None = None,
    sample_id: str | None = None,
    class_names: Sequence[str] | None = None,
    transform: Transform | None = None,
    size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    name: str = "images",
) -> LabelledDataset:
    """Read a Parquet, Arrow or Feather file with one row per picture; ``image_table`` with other default names.

    Args:
        path: the file.
        image: column with the bytes of a picture file (or Hugging Face's struct with a ``bytes`` field), or its path.
        label: column with the given label, an integer or the name of a class.
        true_label: column with the label known to be right, where there is one.
        sample_id: column with a name of each sample for exports, all different.
        class_names: names in the order of the labels.
        transform: as in ``image_folder``, instead of the next three.
        size: (height, width) to resize to; needed unless all pictures have one size.
        mean: of each channel; one value for grey, three for colour.
        std: of each channel.
        name: what messages call it.

    Returns:
        The dataset.

    Raises:
        InvalidInput: if the file or a column is missing or of another kind.
    """
    return image_table(
        path,
        file=image,
        label=label,
        true_label=true_label,
        sample_id=sample_id,
        class_names=class_names,
        transform=transform,
        size=size,
        mean=mean,
        std=std,
        name=name,
    )


def _check_files(source: Files, path: Path, rows: np.ndarray) -> None:
    """Refuse a table that names a picture which is missing, or no file."""
    for index, row in enumerate(rows.tolist()):
        file = source.path(index)
        check_plain(file)
        if not file.exists():
            raise InvalidInput(
                f"row {row} of {path} names the picture {file}, which is not there: paths count from the folder of the "
                "table, or from root=FOLDER"
            )


def _rows(table: Table, split: str, chosen: list[str]) -> np.ndarray:
    cells = [str(cell) for cell in table.column(split).to_pylist()]
    there = sorted(set(cells))
    missing = [part for part in chosen if part not in there]
    if missing:
        shown = ", ".join(there[:12])
        raise InvalidInput(
            f"column {split!r} of {table.path} nowhere says {missing[0]!r}; it says {shown or 'nothing'}"
        )
    return np.flatnonzero(np.isin(np.asarray(cells, dtype=object), chosen))


def _labels(
    table: Table, rows: np.ndarray, label: str, true_label: str | None, class_names: Sequence[str] | None
) -> tuple[Tensor, Tensor | None, list[str] | None]:
    """Given and true labels of some rows as numbers, and the names of the classes where the table has names."""
    named = table.is_text(label)
    classes = None if class_names is None else [str(c) for c in class_names]
    if classes is None and named:
        cells = set(table.column(label).to_pylist())
        if true_label is not None and table.is_text(true_label):
            cells |= set(table.column(true_label).to_pylist())
        classes = sorted(str(cell) for cell in cells if cell is not None)
    given = label_column(table, label, rows, classes)
    truth = None if true_label is None else label_column(table, true_label, rows, classes)
    return given, truth, classes


def _check_bytes(column: Any, name: str, path: Path, rows: np.ndarray) -> None:
    import pyarrow as pa

    kind = column.type
    found = column
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        import pyarrow.compute as pc

        found = pc.struct_field(column, "bytes")
    if not (pa.types.is_binary(found.type) or pa.types.is_large_binary(found.type)) or found.null_count:
        missing = int(rows[found.is_null().to_pylist().index(True)]) if found.null_count else int(rows[0])
        empty = f"has NoneType in row {missing} (its type is {kind})" if found.null_count else f"is {kind}"
        raise InvalidInput(f"column {name!r} of {path} {empty}; the bytes of picture files, or their paths, are needed")
