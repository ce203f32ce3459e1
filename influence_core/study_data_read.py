"""From a section of a study file back to its dataset, compared with what the study was saved with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from influence_core.data import EncodedImages, LabelledDataset, image_folder, image_table, parquet_images
from influence_core.data.columns import check_inflation
from influence_core.data.encoded import Origin
from influence_core.data.images import checked_path
from influence_core.data.preprocessing import Preprocessing, preprocessing
from influence_core.data.sources import Files, Pixels
from influence_core.data.stored import from_tensors
from influence_core.data.torchvision_sets import load_in_memory
from influence_core.errors import InvalidInput
from influence_core.models import load_tensors
from influence_core.study_data import OWN_PICTURES, whole_sha256
from influence_core.study_schema import (
    DataPart,
    FolderData,
    ParquetData,
    PixelData,
    TableData,
    TensorData,
    TorchvisionData,
)

Checked = Callable[..., Path]
"""``checked(name, sha256, inside)``: the path of a file once its hash was compared."""


def read_data(part: DataPart, folder: Path, split: str, names: list[str] | None, checked: Checked) -> LabelledDataset:
    """Read one dataset.

    Args:
        part: its section.
        folder: that relative paths count from.
        split: its name.
        names: of the classes.
        checked: finds a file that the study names and compares its hash.

    Returns:
        The dataset.

    Raises:
        InvalidInput: in one sentence: what is missing, damaged or of another kind.
    """
    if isinstance(part, TensorData):
        return _tensors(checked(part.path, part.sha256, True), split, names)
    if isinstance(part, PixelData):
        return _pixels(checked(part.path, part.sha256, True), part, split, names)
    rows = None if part.rows is None else _rows(checked(part.rows, part.rows_sha256, True))
    way = {"transform": part.transform, "size": part.size, "mean": part.mean, "std": part.std}
    path = checked_path(folder / part.path)
    if isinstance(part, FolderData):
        if rows is not None:
            return _listed(path, rows, _way(part, split), split, names)
        return image_folder(path, **way, class_names=names, name=split)  # type: ignore[arg-type]
    if isinstance(part, ParquetData):
        columns = {"image": part.image, "label": part.label, "true_label": part.true_label}
        path = checked(part.path, part.sha256, False)
        return parquet_images(path, **columns, **way, class_names=names, name=split)  # type: ignore[arg-type]
    if isinstance(part, TorchvisionData):
        images = load_in_memory(part.name, path, part.part, _way(part, split))
        if part.sha256 is not None and whole_sha256(images) != part.sha256:
            raise InvalidInput(
                f"the {part.name} in {path} is not the one that the study was saved with (its SHA-256 differs): it was "
                "damaged or exchanged, put the former one back"
            )
        data = LabelledDataset(images, class_names=names, pictures=images.picture, name=split)
        return _selected(data, rows)
    data = _table(checked(part.path, part.sha256, False), part, folder, way, split, names)
    if part.filepath is None and part.path.endswith(OWN_PICTURES):
        data.filepaths = None  # a file of the study's own does not say where a picture is from
    return _selected(data, rows)


def _table(
    path: Path, part: TableData, folder: Path, way: dict[str, Any], split: str, names: list[str] | None
) -> LabelledDataset:
    return image_table(
        path,
        file=part.image,
        label=part.label,
        true_label=part.true_label,
        sample_id=part.sample_id,
        split=part.split,
        splits=part.splits,
        root=None if part.root is None else folder / part.root,
        filepath=part.filepath,
        class_names=names,
        name=split,
        **way,
    )


def _way(part: FolderData | TorchvisionData | PixelData, split: str) -> Preprocessing:
    return preprocessing(part.transform, part.size, part.mean, part.std, split)


def _tensors(path: Path, split: str, names: list[str] | None) -> LabelledDataset:
    tensors = load_tensors(path)
    texts = {"filepaths": _texts(path, tensors, "filepaths"), "sample_ids": _texts(path, tensors, "sample_ids")}
    return from_tensors(tensors, names, split, str(path), texts)


def _pixels(path: Path, part: PixelData, split: str, names: list[str] | None) -> LabelledDataset:
    tensors = load_tensors(path)
    _check_tensors(path, tensors, "pixels")
    pixels = tensors["pixels"]
    if pixels.dtype != torch.uint8 or pixels.ndim not in (3, 4):
        raise InvalidInput(
            f"{path} has pixels {tuple(pixels.shape)} of {pixels.dtype}, expected uint8 [N, H, W] or [N, H, W, 3]"
        )
    images = EncodedImages(Pixels(pixels.numpy()), tensors["labels"], preprocessing=_way(part, split))
    return LabelledDataset(
        images,
        true_labels=tensors.get("true_labels"),
        class_names=names,
        pictures=images.picture,
        filepaths=_texts(path, tensors, "filepaths"),
        sample_ids=_texts(path, tensors, "sample_ids"),
        name=split,
    )


def _check_tensors(path: Path, tensors: dict[str, Tensor], first: str) -> None:
    for needed in (first, "labels"):
        if needed not in tensors:
            raise InvalidInput(f"{path} has no tensor {needed!r}; it holds {', '.join(sorted(tensors)) or 'nothing'}")
    if tensors[first].shape[:1] != tensors["labels"].shape[:1]:
        raise InvalidInput(
            f"{path} has {tuple(tensors[first].shape)[:1]} {first} but {tuple(tensors['labels'].shape)[:1]} labels"
        )


def _texts(path: Path, tensors: dict[str, Tensor], key: str) -> list[str] | None:
    if key not in tensors:
        return None
    try:
        return [str(text) for text in json.loads(bytes(tensors[key].numpy().astype(np.uint8)))]
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidInput(f"{path} is not what Study.save of this version writes: {key} are no texts") from error


def _rows(path: Path) -> dict[str, list[Any]]:
    """The columns of a file of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InvalidInput(f"there is no file {path}, which the study needs: copy the whole folder again")
    try:
        with pq.ParquetFile(path) as file:
            check_inflation(file, path)
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{path} is no complete Parquet file ({str(error).splitlines()[0]})") from error
    wanted = {"row": pa.int64(), "size": pa.int64(), "label": pa.int64(), "true_label": pa.int64()}
    for field in table.schema:
        text = pa.types.is_string(field.type) or pa.types.is_fixed_size_binary(field.type)
        if table[field.name].null_count or (field.type != wanted[field.name] if field.name in wanted else not text):
            raise InvalidInput(
                f"{path} is not what Study.save of this version writes: column {field.name!r} is another"
            )
    return {name: table[name].to_pylist() for name in table.column_names}


def _listed(
    root: Path, rows: dict[str, list[Any]], way: Preprocessing, split: str, names: list[str] | None
) -> LabelledDataset:
    """The pictures of a folder that were there when the study was saved; others in it are none of the study."""
    missing = [key for key in ("file", "size", "sha256", "label") if key not in rows]
    if missing:
        raise InvalidInput(f"the list of the {split} pictures in {root} lacks the column {missing[0]!r}: save it anew")
    source, labels = Files(root, rows["file"]), torch.tensor(rows["label"], dtype=torch.int64)
    source.expect(range(len(source)), rows["size"], rows["sha256"])
    origin = Origin("folder", root.absolute(), {}, labels, filepaths=rows["file"])
    images = EncodedImages(source, labels, preprocessing=way, origin=origin)
    return LabelledDataset(
        images,
        true_labels=rows.get("true_label"),
        class_names=names,
        pictures=images.picture,
        filepaths=rows.get("filepath", rows["file"]),
        sample_ids=rows.get("sample_id"),
        name=split,
    )


def _selected(data: LabelledDataset, rows: dict[str, list[Any]] | None) -> LabelledDataset:
    """Some samples of a dataset, with what the study says of them."""
    if rows is None:
        return data
    part = data.subset(rows["row"]) if "row" in rows else data
    below, ids = part.root()
    if "sha256" in rows and isinstance(below, EncodedImages) and isinstance(below.source, Files):
        below.source.expect(range(len(below)) if ids is None else ids, rows["size"], rows["sha256"])
    if not {"label", "true_label", "filepath", "sample_id"} & set(rows):
        return part
    return LabelledDataset(
        part.base,
        labels=rows.get("label", part.labels),
        true_labels=rows.get("true_label", part.true_labels),
        class_names=part.class_names,
        pictures=part.picture,
        filepaths=rows.get("filepath", part.filepaths),
        sample_ids=rows.get("sample_id", part.sample_ids),
        name=part.name,
    )
