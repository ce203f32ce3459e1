"""Reading and writing weights without ever running what a file says.

``.safetensors`` holds numbers only. ``.pt``, ``.pth``, ``.ckpt`` and ``.bin`` are read with
``torch.load(weights_only=True)``, which refuses every pickle that is more than a state dict and plain facts around it.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from influence_core.errors import InvalidInput
from influence_core.files import check_encodable, keep, temporary, writing
from influence_core.identity import add_tensor
from influence_core.models.foreign import refuse_program, unwrapped, without_prefixes
from influence_core.models.tensor_stream import check_kinds, stream_tensors

_OURS = "influence_core"
"""The one text of metadata in our files: JSON of all texts, and of the seal (several texts would come in any order)."""


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole or not at all, with a hash over all of it.

    Args:
        path: file to write; an existing one is replaced.
        tensors: name -> tensor.
        metadata: short texts to keep beside them.

    Raises:
        InvalidInput: if the file cannot be written; an existing one stays as it was.
    """
    path = Path(path)
    with writing(path):
        check_encodable(path)
        with temporary(path.parent, path.name) as part:
            write_tensors(part, tensors, metadata)
            keep(part, path)


def write_tensors(part: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Fill a temporary file; the same tensors and texts always give the same bytes.

    Args:
        part: from ``influence_core.files.temporary``.
        tensors: name -> tensor.
        metadata: short texts to keep beside them.

    Returns:
        SHA-256 of the file.

    Raises:
        InvalidInput: if a tensor is of a kind that the format does not know.
    """
    check_kinds(tensors)
    texts = dict(metadata or {})
    sealed = json.dumps({"texts": texts, "sha256": _seal(tensors, texts)}, sort_keys=True)
    return stream_tensors(part, tensors, {_OURS: sealed})


def load_tensors(path: str | Path, *, sealed: bool = False) -> dict[str, Tensor]:
    """Read a tensor file safely; the hash that ``save_tensors`` put into it is checked.

    Args:
        path: a ``.safetensors`` file, or one that ``torch.save`` wrote (``.pt``, ``.pth``, ``.ckpt``, ``.bin``); a
            state dict, or one beside other facts, as training scripts and Lightning keep it.
        sealed: refuse a file without such a hash, which others have written, or an older version of this package.

    Returns:
        name -> tensor, on the CPU.

    Raises:
        InvalidInput: if the file is missing, broken, was changed after it was written, or would run code.
    """
    return load_checkpoint(path, sealed=sealed)[0]


def load_checkpoint(path: str | Path, *, sealed: bool = False) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Read a tensor file, and what a training script kept beside the weights; see ``load_tensors``.

    Args:
        path: the file.
        sealed: refuse a file without a hash of ours.

    Returns:
        name -> tensor, on the CPU; and the facts around them, plain numbers and texts and tensors, if there are any.

    Raises:
        InvalidInput: if the file is missing, broken, was changed after it was written, or would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}. Check the path; paths in a study.toml count from its own folder.")
    seal: str | None = None
    texts: dict[str, str] = {}
    try:
        if sealed or path.suffix == ".safetensors":
            loaded: Any = load_file(path)
            texts, seal = _texts(path)
        else:
            refuse_program(path)
            loaded = torch.load(path, "cpu", weights_only=True)
    except InvalidInput:
        raise
    except safetensors.SafetensorError as error:
        raise InvalidInput(
            f"{path} is no complete safetensors file ({error}). It was probably cut off while being copied: copy it "
            "again, or save the weights anew."
        ) from error
    except pickle.UnpicklingError as error:
        raise InvalidInput(
            f"{path} is a pickle that holds more than tensors; loading it could run somebody else's code, so it was "
            "not loaded. Save the weights alone: safetensors.torch.save_file(model.state_dict(), 'model.safetensors')."
        ) from error
    except Exception as error:  # whatever a broken file makes the readers trip over
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInput(f"{path} cannot be read as a tensor file: {first}") from error
    if seal is None and sealed:
        raise InvalidInput(
            f"{path} carries no checksum, so an older version wrote it, or it was changed since: make it anew"
        )
    if seal is not None and seal != _seal(loaded, texts):
        raise InvalidInput(
            f"{path} was changed or damaged after it was written (its checksum differs): copy it again, or make it anew"
        )
    whole, loaded = loaded, unwrapped(loaded)
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        keys = f" with {_some([str(key) for key in loaded])}" if isinstance(loaded, Mapping) else ""
        raise InvalidInput(f"{path} holds a {type(loaded).__name__}{keys}, expected a state dict (name -> tensor)")
    return {str(k): v for k, v in loaded.items()}, {} if loaded is whole else whole


def _texts(path: Path) -> tuple[dict[str, str], str | None]:
    """The texts beside the tensors of a safetensors file, and its seal if it has one."""
    with safetensors.safe_open(path, "pt") as file:
        metadata = dict(file.metadata() or {})
    if _OURS not in metadata:
        return metadata, None
    ours = json.loads(metadata[_OURS])
    return ours["texts"], ours["sha256"]


def _seal(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """SHA-256 over names, kinds of number, shapes, bytes and texts."""
    digest = hashlib.sha256(json.dumps([sorted(tensors), texts], sort_keys=True).encode())
    for name in sorted(tensors):
        add_tensor(digest, tensors[name])
    return digest.hexdigest()


def load_weights(
    model: nn.Module, state: Mapping[str, Tensor] | str | Path, source: str = "the state dict"
) -> nn.Module:
    """Put weights into a model after checking every name, shape and number.

    Args:
        model: is changed in place.
        state: name -> tensor, or a file for ``load_tensors``. ``module.``, ``_orig_mod.`` and ``model.`` before all
            names (left by DataParallel, ``torch.compile`` and Lightning) are dropped where the model has no such names.
        source: where they come from, for messages.

    Returns:
        ``model``.

    Raises:
        InvalidInput: if the file cannot be read, a name is missing or unknown, a shape or the kind of number differs,
            a number would lose digits, or a value is NaN or infinite.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> _ = load_weights(model, {"module.weight": torch.ones(1, 2), "module.bias": torch.zeros(1)})
        >>> model.weight.tolist()
        [[1.0, 1.0]]
    """
    if isinstance(state, (str, Path)):
        state, source = load_tensors(state), str(state)
    own = model.state_dict()
    state = without_prefixes(state, own)
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        raise InvalidInput(
            f"the weights in {source} do not fit the model {type(model).__name__}: "
            + "; ".join(f"{what} {_some(of)}" for what, of in (("missing", missing), ("not expected", unknown)) if of)
            + ". Build the model with the arguments it was trained with."
        )
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or not isinstance(own[name], Tensor):  # extra state of the user's own
            continue
        if tensor.shape != own[name].shape:
            raise InvalidInput(
                f"the weights in {source} do not fit: {name} has shape {tuple(tensor.shape)}, the model needs "
                f"{tuple(own[name].shape)}. Build the model with the arguments it was trained with."
            )
        check_finite(tensor, f"{name} in {source}")
        _check_kind(tensor, own[name].dtype, f"{name} in {source}")
    versions = getattr(state, "_metadata", None) or getattr(own, "_metadata", None)  # some classes ask for theirs
    chosen = OrderedDict(state)
    chosen._metadata = versions  # type: ignore[attr-defined]  # where torch keeps it
    model.load_state_dict(chosen)
    return model


def _check_kind(tensor: Tensor, wanted: torch.dtype, what: str) -> None:
    """Refuse numbers of another kind than the model's, and those that it would have to round.

    float16 into a float32 model is fine, and float64 too where every number is one of float32.

    Args:
        tensor: from a file.
        wanted: of the model.
        what: its name, for the message.

    Raises:
        InvalidInput: naming it.
    """
    if tensor.dtype == wanted:
        return
    if _kind(tensor.dtype) != _kind(wanted):
        raise InvalidInput(
            f"{what} holds numbers of type {tensor.dtype}, the model has {wanted} there: these are weights of another "
            "kind (quantised ones, say). Save the weights as the model was trained."
        )
    if not torch.equal(tensor.to(wanted).to(tensor.dtype), tensor):
        raise InvalidInput(
            f"{what} is {tensor.dtype}, and the model's {wanted} would round it. Build the model with "
            f"{tensor.dtype} (model.to({tensor.dtype})), or round it yourself: "
            f"{{name: tensor.to({wanted}) for name, tensor in state.items()}}"
        )


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_complex or dtype.is_floating_point:
        return "complex" if dtype.is_complex else "real"
    return "truth" if dtype == torch.bool else "integer"


def check_finite(tensor: Tensor, what: str) -> None:
    """Refuse NaN and infinity.

    Args:
        tensor: any tensor.
        what: its name, for the message.

    Raises:
        InvalidInput: if a value is not finite.
    """
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise InvalidInput(
            f"{what} has {bad} of {tensor.numel()} values that are NaN or infinite: its training diverged. "
            "Lower the learning rate, or take an earlier checkpoint."
        )


def read_facts(path: str | Path, key: str) -> Any:
    """Read the JSON that ``save_tensors`` kept beside the tensors.

    Args:
        path: a safetensors file.
        key: name of the text in its metadata.

    Returns:
        What the JSON says; ``None`` if there is none under ``key``.

    Raises:
        InvalidInput: if the file is no safetensors file, or the text no JSON.
    """
    try:
        text = _texts(Path(path))[0].get(key)
        return None if text is None else json.loads(text)
    except (
        safetensors.SafetensorError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:
        raise InvalidInput(f"{path} is no safetensors file with readable facts about its {key}: {error}") from error


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
