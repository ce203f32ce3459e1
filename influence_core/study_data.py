"""What a study file says of a dataset: where it lies and what is done to its pictures, or else all of it.

A dataset that came from a folder, a table or torchvision is referred to; ``rows`` names a small Parquet file with what
the place itself does not say: which samples, labels that were changed, and the size and SHA-256 of each picture file.
Any other is written out: encoded pictures as a Parquet file of their bytes, pixels and inputs as tensors.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from influence_core.data import EncodedImages, LabelledDataset
from influence_core.data.encoded import Origin
from influence_core.data.sources import KEPT, Files, Pixels
from influence_core.data.stored import to_tensors
from influence_core.data.torchvision_sets import load_in_memory
from influence_core.errors import InvalidInput
from influence_core.files import sha256_of

OWN_PICTURES = ".pictures.parquet"
"""Ending of a file of pictures that a study writes itself."""

_PIECE = 1024


@dataclass(frozen=True, eq=False)
class Beside:
    """A file to write beside the study.

    Attributes:
        key: of the study file that gets its name; ``key_sha256`` gets its hash, for "path" that is "sha256".
        ending: of its name.
        tensors: makes what is in it, for a file of tensors.
        write: fills a file and gives its SHA-256, for any other.
    """

    key: str
    ending: str
    tensors: Callable[[], Mapping[str, Tensor]] | None = None
    write: Callable[[Path], str] | None = None


@dataclass(frozen=True, eq=False)
class Described:
    """A dataset in a study file.

    Attributes:
        facts: its section, without what is written beside.
        beside: or ``None``.
    """

    facts: dict[str, Any]
    beside: Beside | None = None


def describe(data: LabelledDataset, folder: Path, names: list[str] | None, copy: bool, is_ours: Any) -> Described:
    """Say where a dataset lies; or, where nothing can say it, what to write.

    Args:
        data: of the study.
        folder: of the study file.
        names: the study's classes.
        copy: write it out in any case, so that the folder can be sent to somebody.
        is_ours: tells the names of files that studies write, and remove again.

    Returns:
        Its section.
    """
    below, ids = data.root()
    if not isinstance(below, EncodedImages):
        return Described({"format": "tensors"}, Beside("path", ".safetensors", lambda: _inputs(data)))
    facts = below.preprocessing.facts
    if facts is None:
        warnings.warn(
            f"the transform of the {data.name} set cannot be written into a study file, because it is none of "
            "torchvision's (or has an argument that is not plain), so its inputs were written as tensors and its "
            "pictures left out: build it of torchvision.transforms.v2.Resize, ToImage, ToDtype and Normalize to keep "
            "both",
            UserWarning,
            stacklevel=5,
        )
        return Described({"format": "tensors"}, Beside("path", ".safetensors", lambda: _inputs(data)))
    listed = list(range(len(below))) if ids is None else ids
    origin = None if copy or below.origin is None else _still_there(below, below.origin, folder, names, is_ours)
    if origin is None:
        return _written_out(data, below, listed, facts)
    return _referred(data, below, ids, origin, folder, facts)


def _still_there(
    below: EncodedImages, origin: Origin, folder: Path, names: list[str] | None, is_ours: Any
) -> Origin | None:
    """The origin, if reading it again would give these pictures; its labels are those that would be read."""
    if origin.format == "table":
        passing = is_ours(origin.path.name) and origin.path.parent.resolve() != folder.resolve()
        named = origin.class_names is None or origin.class_names == names
        try:
            return origin if named and not passing and sha256_of(origin.path) == origin.sha256 else None
        except OSError:
            return None
    if origin.format == "torchvision":
        try:
            fresh = load_in_memory(origin.facts["name"], origin.path, origin.facts["part"], below.preprocessing)
        except InvalidInput:
            return None
        same = len(fresh) == len(below) and whole_sha256(fresh) == whole_sha256(below)
        return fresh.origin if same else None
    return origin


def whole_sha256(images: EncodedImages) -> str:
    """SHA-256 of all pictures of a dataset, apart from labels and preprocessing."""
    digest = hashlib.sha256()
    for index in range(len(images)):
        digest.update(images.source.sha256(index))
    return digest.hexdigest()


def _referred(
    data: LabelledDataset,
    below: EncodedImages,
    ids: list[int] | None,
    origin: Origin,
    folder: Path,
    preprocessing: dict[str, Any],
) -> Described:
    facts = {"format": origin.format, "path": _path(origin.path, folder)}
    facts |= {k: _path(v, folder) if isinstance(v, Path) else v for k, v in origin.facts.items()}
    listed = list(range(len(below))) if ids is None else ids
    index = torch.tensor(listed, dtype=torch.int64)
    rows: dict[str, Any] = {}
    if ids is not None and origin.format != "folder":
        rows["row"] = np.asarray(ids, dtype=np.int64)
    if isinstance(below.source, Files):
        hashes = [below.source.sha256(i)[:KEPT] for i in listed]
        if origin.format == "folder":
            rows["file"] = [below.source.names[i] for i in listed]
        rows["size"] = np.asarray([below.source.size(i) for i in listed], dtype=np.int64)
        rows["sha256"] = hashes
    if origin.format == "folder" or not torch.equal(data.labels, origin.labels[index]):
        rows["label"] = data.labels.numpy()
    truth = None if origin.true_labels is None else origin.true_labels[index]
    if data.true_labels is None:
        facts.pop("true_label", None)
    elif truth is None or not torch.equal(data.true_labels, truth):
        rows["true_label"] = data.true_labels.numpy()
    if data.sample_ids is None:
        facts.pop("sample_id", None)
    texts = {
        "filepath": (data.filepaths, origin.filepaths),
        "sample_id": (data.sample_ids, origin.sample_ids),
    }
    rows |= {
        key: mine
        for key, (mine, theirs) in texts.items()
        if mine is not None and (theirs is None or mine != [theirs[i] for i in listed])
    }
    if origin.format == "table" and origin.sha256 is not None:
        facts["sha256"] = origin.sha256
    if origin.format == "torchvision":
        facts["sha256"] = whole_sha256(below)
    facts |= preprocessing
    return Described(
        facts, Beside("rows", ".rows.parquet", write=lambda part: _write_rows(part, rows)) if rows else None
    )


def _path(path: Path, folder: Path) -> str:
    """Relative where it lies in the folder or below, so that both can be moved together; else absolute."""
    whole, base = path.absolute().resolve(), folder.absolute().resolve()
    return (whole.relative_to(base) if whole.is_relative_to(base) else path.absolute()).as_posix()


def _written_out(data: LabelledDataset, below: EncodedImages, ids: list[int], facts: dict[str, Any]) -> Described:
    source = below.source
    if isinstance(source, Pixels):
        return Described(
            {"format": "pixels", **facts}, Beside("path", ".safetensors", lambda: _pixels(data, source, ids))
        )
    columns = {"image": "image", "label": "label"}
    optional = {"true_label": data.true_labels, "filepath": data.filepaths, "sample_id": data.sample_ids}
    columns |= {key: key for key, value in optional.items() if value is not None}
    return Described(
        {"format": "table", **columns, **facts},
        Beside("path", OWN_PICTURES, write=lambda part: _write_pictures(part, data, below, ids)),
    )


def _texts(data: LabelledDataset) -> dict[str, Tensor]:
    """Names of samples as tensors of bytes, for files of tensors."""
    found = {"filepaths": data.filepaths, "sample_ids": data.sample_ids}
    return {
        key: torch.from_numpy(np.frombuffer(json.dumps(value).encode(), dtype=np.uint8).copy())
        for key, value in found.items()
        if value is not None
    }


def _labels(data: LabelledDataset) -> dict[str, Tensor]:
    return {"labels": data.labels} | ({} if data.true_labels is None else {"true_labels": data.true_labels})


def _inputs(data: LabelledDataset) -> dict[str, Tensor]:
    return to_tensors(data) | _texts(data)


def _pixels(data: LabelledDataset, source: Pixels, ids: list[int]) -> dict[str, Tensor]:
    pixels = torch.from_numpy(np.ascontiguousarray(source.arrays[ids]))
    return {"pixels": pixels, **_labels(data), **_texts(data)}


def _write_rows(part: Path, rows: Mapping[str, Any]) -> str:
    import pyarrow as pa

    kinds = {"sha256": pa.binary(KEPT), "file": pa.string(), "filepath": pa.string(), "sample_id": pa.string()}
    table = pa.table({key: pa.array(value, kinds.get(key, pa.int64())) for key, value in rows.items()})
    return _write_parquet(part, table.schema, iter([table]))


def _write_pictures(part: Path, data: LabelledDataset, below: EncodedImages, ids: list[int]) -> str:
    import pyarrow as pa

    fields = [("image", pa.binary()), ("label", pa.int64())]
    fields += [("true_label", pa.int64())] if data.true_labels is not None else []
    fields += [("filepath", pa.string())] if data.filepaths is not None else []
    fields += [("sample_id", pa.string())] if data.sample_ids is not None else []
    schema = pa.schema(fields)

    def pieces() -> Iterator[Any]:
        for start in range(0, len(ids), _PIECE):
            stop = min(start + _PIECE, len(ids))
            columns: dict[str, Any] = {
                "image": [below.source.content(i) for i in ids[start:stop]],
                "label": data.labels[start:stop].numpy(),
            }
            if data.true_labels is not None:
                columns["true_label"] = data.true_labels[start:stop].numpy()
            if data.filepaths is not None:
                columns["filepath"] = data.filepaths[start:stop]
            if data.sample_ids is not None:
                columns["sample_id"] = data.sample_ids[start:stop]
            yield pa.table(columns, schema=schema)

    return _write_parquet(part, schema, pieces())


def _write_parquet(part: Path, schema: Any, tables: Iterator[Any]) -> str:
    """Fill a file; the same rows always give the same bytes."""
    import pyarrow.parquet as pq

    plain = [name for name in schema.names if name in ("image", "sha256")]
    with pq.ParquetWriter(
        part, schema, compression="zstd", use_dictionary=[name for name in schema.names if name not in plain]
    ) as writer:
        for table in tables:
            writer.write_table(table)
    return sha256_of(part)
