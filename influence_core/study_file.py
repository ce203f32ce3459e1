"""Study files: ``study.toml`` and the tensor files beside it.

The file says what a study consists of; numbers lie in safetensors files next to it. Reading one never runs code that
came with it. This module knows plain facts only, ``Contents``; ``Study.save`` and ``Study.load`` make a study of them.

A study is replaced as a whole. The files beside it have names made from their content, so that a new study never
overwrites a file of the former one; ``study.toml`` holds the SHA-256 of each, the study's fingerprint and a checksum of
itself, and is renamed last. Version 3 refers to data in folders, tables and torchvision's datasets by their path, with
hashes; version 2 wrote all data as tensors, and version 1 had no checksums. Both are read as ever, and not written any
more.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w
from torch import Tensor

from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput
from influence_core.files import alone_in, check_encodable, keep, sha256_of, temporary, write_whole, writing
from influence_core.models import Architecture, PluginFile, load_tensors, read_facts, write_tensors
from influence_core.study_checks import SPLITS as SPLITS  # of a file as of a study
from influence_core.study_data import Beside, Described, describe
from influence_core.study_data_read import read_data
from influence_core.study_schema import CUSTOM, StudyFile, TensorData, checksum_of, parse
from influence_core.training import Checkpoint, Recipe, Trajectory

FILE_NAME = "study.toml"
_PART = "(model|train|validation|test|trajectory)"
_OURS = re.compile(
    rf"{_PART}-[0-9a-f]{{12}}\.(safetensors|(rows|pictures)\.parquet)|({_PART}|.+\.toml)\.[0-9a-f]{{12}}\.tmp",
    re.DOTALL,
)
_PLAIN = re.compile(rf"{_PART}\.safetensors")
_TRIES = 5


@dataclass(frozen=True, eq=False)
class Contents:
    """What a study file says.

    Attributes:
        name: of the study.
        class_names: one per class, or ``None``.
        loss: "cross_entropy", or where a loss of the user's own is from.
        weight_decay: lambda of the penalty.
        architecture: how to build the model; ``None`` if the user has to bring it.
        weights: name -> tensor.
        data: split -> dataset.
        trajectory: or ``None``.
        frozen: names of parameters that are not trained; ``None`` where the file does not say.
        fingerprint: of the study; ``None`` where the file does not say.
        source: the file of the weights, for messages.
        plugin: the Python file that the architecture is from, or ``None``. To read a study does not run it.
    """

    name: str
    class_names: list[str] | None
    loss: str
    weight_decay: float
    architecture: Architecture | None
    weights: Mapping[str, Tensor]
    data: Mapping[str, LabelledDataset]
    trajectory: Trajectory | None = None
    frozen: list[str] | None = None
    fingerprint: str | None = None
    source: str = field(default="the state dict", repr=False)
    plugin: PluginFile | None = None


def toml_path(path: str | Path, writing: bool = False) -> Path:
    """The ``.toml`` file that a path means.

    Args:
        path: a folder, or the file itself.
        writing: whether the path need not exist yet.

    Returns:
        The file.
    """
    path = Path(path)
    is_folder = path.suffix != ".toml" if writing else path.is_dir()
    return path / FILE_NAME if is_folder else path


def read(path: str | Path) -> Contents:
    """Read a study file and everything it names.

    Args:
        path: ``study.toml``, or the folder it lies in.

    Returns:
        What it says, checked against every checksum.

    Raises:
        InvalidInput: in one sentence: the key, file, shape or label that is wrong, and what was expected.
    """
    path = toml_path(path)
    for _ in range(_TRIES):
        content, spec = parse(path)
        try:
            return _contents(spec, path)
        except InvalidInput:
            with suppress(OSError):
                if path.read_bytes() != content:  # somebody saves another study here just now
                    continue
            raise
    raise InvalidInput(f"{path} is being written again and again: load it once the other program has finished")


def write(contents: Contents, path: str | Path, copy_data: bool = False) -> Path:
    """Write a study file in place of the one that is there, as a whole.

    Args:
        contents: to write; its datasets are referred to where they lie on the disk, and else written out.
        path: folder, or the ``.toml`` file to write.
        copy_data: write all data out.

    Returns:
        The file written.

    Raises:
        InvalidInput: if the disk is full, the folder cannot be written or a name cannot be encoded; the study that was
            there is as it was.
    """
    path = toml_path(path, writing=True)
    folder = path.parent
    parts = {
        split: describe(data, folder, contents.class_names, copy_data, lambda name: _OURS.fullmatch(name) is not None)
        for split, data in contents.data.items()
    }
    spec = _spec(contents, parts)
    _toml(spec, path)  # a text that no file can hold is found before any file is written
    with writing(path):
        check_encodable(path)
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder) as alone:
            known, former = _named_in(path)
            try:
                if contents.plugin is not None:
                    spec["model"] |= _write_plugin(folder, contents.plugin)
                for title, beside, texts in _files(contents, parts):
                    name, digest = _write_part(folder, title, beside, texts)
                    known.add(name)
                    spec[title] |= {beside.key: name, "rows_sha256" if beside.key == "rows" else "sha256": digest}
                write_whole(path, _toml(spec, path))
            finally:
                _sweep(folder, None if alone else known, former)
    return path


def _write_part(folder: Path, title: str, beside: Beside, texts: Mapping[str, str]) -> tuple[str, str]:
    """Write a file under a name made from its content; name and SHA-256."""
    with temporary(folder, title) as part:
        if beside.tensors is not None:
            digest = write_tensors(part, beside.tensors(), texts)
        elif beside.write is not None:
            digest = beside.write(part)
        name = f"{title}-{digest[:12]}{beside.ending}"
        keep(part, folder / name)
    return name, digest


def _write_plugin(folder: Path, plugin: PluginFile) -> dict[str, str]:
    """Write a plugin under its own name, or, where another file has that, with the start of its SHA-256 in it."""
    source, digest = plugin.source or b"", str(plugin.sha256)
    name = plugin.path.name
    if (folder / name).exists() and sha256_of(folder / name) != digest:
        name = f"{plugin.path.stem.removesuffix(f'-{digest[:12]}')}-{digest[:12]}.py"
    write_whole(folder / name, source)
    return {"plugin": name, "plugin_sha256": digest}


def _sweep(folder: Path, only: set[str] | None, former: set[str]) -> None:
    """Remove tensor files that ``write`` made and no study file in the folder, or backup of one, mentions.

    Args:
        folder: where.
        only: of these, where another writer may be at work; ``None`` for all.
        former: files of the version 1 study that was there, which go with it.
    """
    with suppress(OSError):
        files = [file for file in folder.iterdir() if file.is_file()]
        studies = [file for file in files if ".toml" in file.name and not _OURS.fullmatch(file.name)]
        texts = [file.read_text(encoding="utf-8", errors="replace") for file in studies]
        for file in files:
            mine = _OURS.fullmatch(file.name) is not None and (only is None or file.name in only)
            if (mine or file.name in former) and not any(file.name in text for text in texts):
                file.unlink(missing_ok=True)


def _named_in(path: Path) -> tuple[set[str], set[str]]:
    """The tensor files of the study that is there; and those of a version 1 study that ``Study.save`` named."""
    with suppress(InvalidInput, OSError):
        spec = parse(path)[1]
        parts = [getattr(spec, split) for split in SPLITS] + [spec.trajectory]
        named = {spec.model.weights, *(part.path for part in parts if part is not None)}
        named |= {part.rows for part in parts if getattr(part, "rows", None) is not None}
        return named, {name for name in named if spec.version == 1 and _PLAIN.fullmatch(name)}
    return set(), set()


def _spec(contents: Contents, parts: Mapping[str, Described]) -> dict[str, Any]:
    """The file without the names of the files beside it."""
    built = contents.architecture
    if built is not None and not _is_plain(built.arguments):
        built = None  # arguments that TOML cannot hold: whoever loads the study brings the model
    spec: dict[str, Any] = {
        "version": 3,
        "name": contents.name,
        "class_names": contents.class_names,
        "loss": contents.loss,
        "weight_decay": float(contents.weight_decay),
        "fingerprint": contents.fingerprint,
        "model": {
            "architecture": built.name.partition("@")[0] if built else CUSTOM,
            "weights": "",
            "sha256": "",
            "frozen": contents.frozen or [],
            "arguments": built.arguments if built else {},
        },
    }
    spec |= {split: dict(part.facts) for split, part in parts.items()}
    if contents.trajectory is not None:
        spec["trajectory"] = {}
    return {key: value for key, value in spec.items() if value is not None}


def _toml(spec: dict[str, Any], path: Path) -> bytes:
    try:
        body = tomli_w.dumps(spec).encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"the study cannot be written to {path!s}: its name, a class name or an argument has the character "
            f"{error.object[error.start]!a}, which no file can hold: take it out. Nothing was changed."
        ) from error
    return f'checksum = "{checksum_of(body)}"\n'.encode() + body


def _files(contents: Contents, parts: Mapping[str, Described]) -> Iterator[tuple[str, Beside, Mapping[str, str]]]:
    """Title, content and texts of each file; one dataset at a time is in memory."""
    yield "model", Beside("weights", ".safetensors", lambda: contents.weights), {}
    for split, part in parts.items():
        if part.beside is not None:
            yield split, part.beside, {}
    if contents.trajectory is not None:
        tensors, texts = _trajectory_tensors(contents.trajectory)
        yield "trajectory", Beside("path", ".safetensors", lambda: tensors), texts


def _contents(spec: StudyFile, path: Path) -> Contents:
    folder = path.resolve().parent if path.is_symlink() else path.parent  # the files lie beside the file itself
    weights = _checked(folder, spec.model.weights, spec.model.sha256, spec)
    built = Architecture(spec.model.architecture, spec.model.arguments)
    return Contents(
        name=spec.name,
        class_names=spec.class_names,
        loss=spec.loss,
        weight_decay=spec.weight_decay,
        architecture=None if built.name == CUSTOM else built,
        weights=load_tensors(weights),
        data={
            split: read_data(part, folder, split, spec.class_names, partial(_of, folder, spec))
            for split in SPLITS
            if (part := getattr(spec, split))
        },
        trajectory=None
        if spec.trajectory is None
        else _read_trajectory(_checked(folder, spec.trajectory.path, spec.trajectory.sha256, spec)),
        frozen=spec.model.frozen,
        fingerprint=spec.fingerprint if _by_content(spec) else None,
        source=str(weights),
        plugin=PluginFile(folder / spec.model.plugin, spec.model.plugin_sha256) if spec.model.plugin else None,
    )


def _by_content(spec: StudyFile) -> bool:
    """Whether the fingerprint was made as it is now; before version 3 it hashed the inputs of pictures too."""
    parts = [getattr(spec, split) for split in SPLITS]
    return spec.version > 2 or all(part is None or isinstance(part, TensorData) for part in parts)


def _of(folder: Path, spec: StudyFile, name: str, digest: str | None, inside: bool) -> Path:
    return _checked(folder, name, digest, spec, inside)


def _checked(folder: Path, name: str, digest: str | None, spec: StudyFile, inside: bool = True) -> Path:
    """The path of a file that a study names, once its content was compared with its checksum."""
    path = folder / name
    if spec.version > 1 and inside and (Path(name).is_absolute() or ".." in Path(name).parts):
        raise InvalidInput(
            f"the study in {folder} names the file {name!r}, which lies outside of its folder: copy it in"
        )
    if digest is None:
        return path
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}, which the study in {folder} needs: copy the whole folder again")
    try:
        same = sha256_of(path) == digest
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}") from error
    if not same:
        raise InvalidInput(
            f"{path} is not the file that the study was saved with (its SHA-256 differs): it was damaged, cut off or "
            "exchanged. Copy it again; or, if it was meant, take the lines 'sha256' and 'checksum' out of the .toml"
        )
    return path


def _trajectory_tensors(trajectory: Trajectory) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors = {f"{c.step}/{name}": tensor for c in trajectory for name, tensor in c.state.items()}
    facts = {
        "checkpoints": [c.facts() for c in trajectory],
        "recipe": trajectory.recipe.facts(),
        "losses": list(trajectory.losses),
    }
    return tensors, {"trajectory": json.dumps(facts)}


def _read_trajectory(path: Path) -> Trajectory:
    tensors, facts = load_tensors(path), read_facts(path, "trajectory")
    if facts is None:
        raise InvalidInput(
            f"{path} is no trajectory: its metadata lacks the steps and learning rates of the checkpoints"
        )
    try:
        checkpoints = []
        for fact in facts["checkpoints"]:
            prefix = f"{fact['step']}/"
            state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            checkpoints.append(Checkpoint(**fact, state=state))
        return Trajectory(checkpoints, Recipe(**facts["recipe"]), facts["losses"])
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error
    except (TypeError, KeyError) as error:
        raise InvalidInput(f"{path} is not what Study.save of this version writes: {error}") from error


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(_is_plain(inner) for inner in value)
    return isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value))
