"""What may stand in a ``study.toml``, and reading it with a sentence about what is wrong."""

from __future__ import annotations

import codecs
import hashlib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from influence_core.errors import InvalidInput

CUSTOM = "custom"
"""Architecture of a model that nobody but its user can build."""

MOST_BYTES = 1 << 20
_DOTS = 64
_MOST_SHOWN = 200
# possessive, and a word is tried from its start alone: otherwise one long word would take the square of its length
_DEEP_KEY = re.compile(r"""(?:(?:(?<![\w-])[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){64}""")

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ModelPart(_Part):
    """``[model]``: how to build it and where its weights are."""

    architecture: str
    arguments: dict[str, Any] = {}
    weights: str
    sha256: Digest | None = None
    frozen: list[str] | None = None
    plugin: str | None = Field(None, pattern=r"^[^/\\\x00-\x1f]+\.py$")
    """A Python file beside the study that registers or defines the architecture; it runs if the user says so."""
    plugin_sha256: Digest | None = None


class TensorData(_Part):
    """Data in one safetensors file: ``inputs`` [N, ...], ``labels`` [N] and, when known, ``true_labels`` [N]."""

    format: Literal["tensors"]
    path: str
    sha256: Digest | None = None


class _Pictures(_Part):
    """What is done to pictures: a ``transform``, step by step, or ``size``, ``mean`` and ``std``.

    ``rows`` is a Parquet file beside the study with what the data's own place does not say: which samples (``row``, or
    ``file`` of a folder), changed labels, and the size and first 16 bytes of the SHA-256 of each picture file.
    """

    path: str
    transform: list[dict[str, Any]] | None = None
    size: tuple[int, int] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    rows: str | None = None
    rows_sha256: Digest | None = None


class FolderData(_Pictures):
    """Data as ``path/CLASS/picture.png``."""

    format: Literal["folder"]


class ParquetData(_Pictures):
    """Data as a Parquet file with one encoded picture per row, as versions 1 and 2 call it; see ``TableData``."""

    format: Literal["parquet"]
    sha256: Digest | None = None
    image: str = "image"
    label: str = "label"
    true_label: str | None = None


class TableData(_Pictures):
    """Data as a CSV, Parquet, Arrow or Feather file; ``image`` is its column of paths or bytes."""

    format: Literal["table"]
    sha256: Digest | None = None
    image: str = "file"
    label: str = "label"
    true_label: str | None = None
    sample_id: str | None = None
    filepath: str | None = None
    split: str | None = None
    splits: list[str] | None = None
    root: str | None = None


class TorchvisionData(_Pictures):
    """A dataset of torchvision below ``path``; ``part`` is its argument ``train`` or ``split``."""

    format: Literal["torchvision"]
    name: str
    part: bool | str
    sha256: Digest | None = None


class PixelData(_Pictures):
    """Data in one safetensors file: ``pixels`` uint8 [N, H, W] or [N, H, W, 3], and as ``TensorData``."""

    format: Literal["pixels"]
    sha256: Digest | None = None


DataPart = Annotated[
    TensorData | FolderData | ParquetData | TableData | TorchvisionData | PixelData, Field(discriminator="format")
]

FORMATS: dict[str, type[BaseModel]] = {
    "tensors": TensorData,
    "folder": FolderData,
    "parquet": ParquetData,
    "table": TableData,
    "torchvision": TorchvisionData,
    "pixels": PixelData,
}
"""What ``format`` of a dataset can be."""


class TrajectoryPart(_Part):
    """``[trajectory]``: checkpoints in one safetensors file, tensors named ``STEP/NAME``."""

    path: str
    sha256: Digest | None = None


class StudyFile(_Part):
    """The whole of ``study.toml``."""

    version: Literal[1, 2, 3]
    checksum: Digest | None = None
    fingerprint: Digest | None = None
    name: str = "study"
    class_names: list[str] | None = None
    loss: str = "cross_entropy"
    weight_decay: float = Field(0.0, ge=0.0)
    model: ModelPart
    train: DataPart
    test: DataPart
    validation: DataPart | None = None
    trajectory: TrajectoryPart | None = None


def checksum_of(body: bytes) -> str:
    """SHA-256 of all of a study file but its first line, which says it."""
    return hashlib.sha256(body).hexdigest()


def parse(path: Path) -> tuple[bytes, StudyFile]:
    """Read a ``study.toml`` alone.

    Args:
        path: the file.

    Returns:
        Its bytes, and what it says.

    Raises:
        InvalidInput: if there is none, it is too large, damaged or no TOML, or a key is wrong.
    """
    if not path.is_file():
        raise InvalidInput(f"there is no study file {path}; give the path of a study.toml or the folder it lies in")
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > MOST_BYTES:
        raise InvalidInput(f"{path} is no study file: it is larger than {MOST_BYTES:,} bytes")
    plain = content.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n")  # as git and editors of Windows leave it
    if _DEEP_KEY.search(plain.decode(errors="replace")):
        raise InvalidInput(f"{path} is no study file: it has a key with more than {_DOTS} dots")
    try:
        raw = tomllib.loads(plain.decode())
    except (ValueError, RecursionError) as error:  # also for an integer that is too long for Python
        raise InvalidInput(f"{path} is not valid TOML: {error}") from error
    try:
        spec = StudyFile.model_validate(raw)
    except ValidationError as error:
        raise InvalidInput(f"{path}: {_sentence(error)}") from error
    _check_checksum(path, plain, spec.checksum)
    return content, spec


def _check_checksum(path: Path, content: bytes, checksum: str | None) -> None:
    if checksum is None:
        return
    first, _, body = content.partition(b"\n")
    if first != f'checksum = "{checksum}"'.encode() or checksum_of(body) != checksum:
        raise InvalidInput(
            f"{path} was changed or damaged after it was written (its checksum differs): copy it again, or, if you "
            "changed it yourself, take the line 'checksum' out of it, and 'fingerprint' too if you changed a number, a "
            "dataset or which parameters are frozen"
        )


def _sentence(error: ValidationError) -> str:
    """The first problem of a file in one sentence, with the keys that would be right."""
    found = error.errors()
    first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])  # a misspelt key also misses
    formats = FORMATS
    where = [str(part) for part in first["loc"] if part not in formats]
    key = ".".join(where)
    kind, more = first["type"], error.error_count() - 1
    also = f" ({more} more like this)" if more else ""
    if "size" in where and kind != "extra_forbidden":
        return f"{key.partition('.size')[0]}.size has to be two integers, [height, width] in pixels{also}"
    if kind == "missing":
        return f"the key {key!r} is missing{also}"
    if kind == "extra_forbidden":
        sections: dict[str, type[BaseModel]] = {"model": ModelPart, "trajectory": TrajectoryPart, **formats}
        near = next((str(p) for p in reversed(first["loc"][:-1]) if p in sections), None)
        schema = sections[near] if near else StudyFile
        return f"there is no key {key!r}; possible here: {', '.join(schema.model_fields)}{also}"
    if kind.startswith("union_tag"):
        return f"[{key}] needs format = one of {', '.join(formats)}{also}"
    return f"{key!r} is {_shown(first['input'])}: {first['msg'][0].lower()}{first['msg'][1:]}{also}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer that is too long for Python to write
        return "a number of thousands of digits"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
