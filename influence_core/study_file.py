"""Study files: ``study.toml`` and the tensor files beside it.

The file says what a study consists of; numbers lie in safetensors files next to it. Reading one never runs code that
came with it.
"""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from influence_core.data import LabelledDataset, image_folder, parquet_images
from influence_core.errors import InvalidInput
from influence_core.losses import Loss, cross_entropy
from influence_core.models import architecture_of, build, load_tensors, load_weights, read_facts, save_tensors
from influence_core.study import SPLITS, Study
from influence_core.training import Checkpoint, Recipe, Trajectory

FILE_NAME = "study.toml"
_CUSTOM = "custom"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ModelPart(_Part):
    """``[model]``: how to build it and where its weights are."""

    architecture: str
    arguments: dict[str, Any] = {}
    weights: str


class TensorData(_Part):
    """Data in one safetensors file: ``inputs`` [N, ...], ``labels`` [N] and, when known, ``true_labels`` [N]."""

    format: Literal["tensors"]
    path: str


class FolderData(_Part):
    """Data as ``path/CLASS/picture.png``."""

    format: Literal["folder"]
    path: str
    size: tuple[int, int] | None = None
    mean: list[float] = [0.0, 0.0, 0.0]
    std: list[float] = [1.0, 1.0, 1.0]


class ParquetData(_Part):
    """Data as a Parquet file with one encoded picture per row."""

    format: Literal["parquet"]
    path: str
    image: str = "image"
    label: str = "label"
    true_label: str | None = None
    size: tuple[int, int] | None = None
    mean: list[float] = [0.0, 0.0, 0.0]
    std: list[float] = [1.0, 1.0, 1.0]


DataPart = Annotated[TensorData | FolderData | ParquetData, Field(discriminator="format")]


class TrajectoryPart(_Part):
    """``[trajectory]``: checkpoints in one safetensors file, tensors named ``STEP/NAME``."""

    path: str


class StudyFile(_Part):
    """The whole of ``study.toml``."""

    version: Literal[1]
    name: str = "study"
    class_names: list[str] | None = None
    loss: str = "cross_entropy"
    weight_decay: float = Field(0.0, ge=0.0)
    model: ModelPart
    train: DataPart
    test: DataPart
    validation: DataPart | None = None
    trajectory: TrajectoryPart | None = None


def load(path: str | Path, model: nn.Module | None = None, loss: Loss | None = None) -> Study:
    """Read a study file.

    Args:
        path: ``study.toml``, or the folder it lies in.
        model: the architecture, where the file names none that is registered; its weights are replaced.
        loss: the loss, where it is not cross-entropy.

    Returns:
        The study.

    Raises:
        InvalidInput: in one sentence: the key, file, shape or label that is wrong, and what was expected.
    """
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    spec = _parse(path)
    folder = path.parent
    if loss is None:
        if spec.loss != "cross_entropy":
            raise InvalidInput(f"{path} uses the loss {spec.loss!r}: pass it as ic.Study.load(path, loss=function)")
        loss = cross_entropy
    if model is None:
        if spec.model.architecture == _CUSTOM:
            raise InvalidInput(
                f"{path} was saved from a model that ic.models.build did not make: pass the architecture as "
                "ic.Study.load(path, model=my_model), or register it with @ic.models.register(name) and write that "
                "name as architecture."
            )
        model = build(spec.model.architecture, **spec.model.arguments)
    weights = folder / spec.model.weights
    load_weights(model, load_tensors(weights), str(weights))
    data = {s: _read_data(part, folder, s, spec.class_names) for s in SPLITS if (part := getattr(spec, s))}
    trajectory = None if spec.trajectory is None else _read_trajectory(folder / spec.trajectory.path)
    return Study(model, **data, trajectory=trajectory, loss=loss, weight_decay=spec.weight_decay, name=spec.name)


def save(study: Study, path: str | Path) -> Path:
    """Write a study as ``study.toml`` and safetensors files beside it.

    Args:
        study: to write; its datasets are written as tensors, with labels and, when known, true labels.
        path: folder, or the ``.toml`` file to write.

    Returns:
        The file written.
    """
    path = Path(path)
    path = path if path.suffix == ".toml" else path / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    built = architecture_of(study.model)
    if built is not None and not _is_plain(built.arguments):
        built = None  # arguments that TOML cannot hold: whoever loads the study brings the model
    spec: dict[str, Any] = {
        "version": 1,
        "name": study.name,
        "class_names": study.class_names,
        "loss": "cross_entropy" if study.loss is cross_entropy else _loss_name(study.loss),
        "weight_decay": study.weight_decay,
        "model": {
            "architecture": built.name if built else _CUSTOM,
            "arguments": built.arguments if built else {},
            "weights": "model.safetensors",
        },
    }
    save_tensors(path.parent / "model.safetensors", study.model.state_dict())
    for split in SPLITS:
        if split == "validation" and study.validation is None:
            continue
        save_tensors(path.parent / f"{split}.safetensors", _data_tensors(study.split(split)))
        spec[split] = {"format": "tensors", "path": f"{split}.safetensors"}
    if study.trajectory is not None:
        _write_trajectory(path.parent / "trajectory.safetensors", study.trajectory)
        spec["trajectory"] = {"path": "trajectory.safetensors"}
    StudyFile.model_validate(spec)
    path.write_text(_to_toml(spec), encoding="utf-8")
    return path


def _parse(path: Path) -> StudyFile:
    if not path.is_file():
        raise InvalidInput(f"there is no study file {path}; give the path of a study.toml or the folder it lies in")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is not valid TOML: {error}") from error
    try:
        return StudyFile.model_validate(raw)
    except ValidationError as error:
        raise InvalidInput(f"{path}: {_sentence(error)}") from error


def _sentence(error: ValidationError) -> str:
    """The first problem of a file in one sentence, with the keys that would be right."""
    found = error.errors()
    first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])  # a misspelt key also misses
    formats: dict[str, type[BaseModel]] = {"tensors": TensorData, "folder": FolderData, "parquet": ParquetData}
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
    return f"{key!r} is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}{also}"


def _read_data(
    part: TensorData | FolderData | ParquetData, folder: Path, split: str, class_names: list[str] | None
) -> LabelledDataset:
    path = folder / part.path
    if isinstance(part, FolderData):
        return image_folder(path, size=part.size, mean=part.mean, std=part.std, class_names=class_names, name=split)
    if isinstance(part, ParquetData):
        return parquet_images(
            path,
            image=part.image,
            label=part.label,
            true_label=part.true_label,
            class_names=class_names,
            size=part.size,
            mean=part.mean,
            std=part.std,
            name=split,
        )
    tensors = load_tensors(path)
    for needed in ("inputs", "labels"):
        if needed not in tensors:
            raise InvalidInput(f"{path} has no tensor {needed!r}; it holds {', '.join(sorted(tensors)) or 'nothing'}")
    if tensors["inputs"].shape[:1] != tensors["labels"].shape[:1]:
        raise InvalidInput(
            f"{path} has {tuple(tensors['inputs'].shape)[:1]} inputs but {tuple(tensors['labels'].shape)[:1]} labels"
        )
    return LabelledDataset(
        TensorDataset(tensors["inputs"], tensors["labels"]),
        true_labels=tensors.get("true_labels"),
        class_names=class_names,
        name=split,
    )


def _data_tensors(data: LabelledDataset) -> dict[str, Tensor]:
    inputs, labels = data.batch(torch.arange(len(data)))
    tensors = {"inputs": inputs, "labels": labels}
    return tensors if data.true_labels is None else tensors | {"true_labels": data.true_labels}


def _write_trajectory(path: Path, trajectory: Trajectory) -> None:
    tensors = {f"{c.step}/{name}": tensor for c in trajectory for name, tensor in c.state.items()}
    facts = {
        "checkpoints": [c.facts() for c in trajectory],
        "recipe": trajectory.recipe.facts(),
        "losses": list(trajectory.losses),
    }
    save_tensors(path, tensors, {"trajectory": json.dumps(facts)})


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
    except (TypeError, KeyError) as error:
        raise InvalidInput(f"{path} is not what Study.save of this version writes: {error}") from error


def _to_toml(spec: dict[str, Any]) -> str:
    """TOML of a flat file with one level of sections (JSON's strings, numbers, lists and booleans are TOML too)."""
    lines = [f"{key} = {_value(value)}" for key, value in spec.items() if not isinstance(value, dict)]
    for key, value in spec.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]"] + [f"{inner} = {_value(v)}" for inner, v in value.items()]
    return "\n".join(lines) + "\n"


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(_is_plain(inner) for inner in value)
    return isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value))


def _loss_name(loss: Loss) -> str:
    """Where a loss of the user's own is from, so that none is taken for ours by its name."""
    kind = loss if hasattr(loss, "__qualname__") else type(loss)
    return f"{kind.__module__}.{kind.__qualname__}"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(k)} = {_value(v)}" for k, v in value.items()) + "}"
    return _text(value)


def _text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")  # the one character that JSON allows and TOML does not
