"""Reading and writing weights without ever running what a file says.

``.safetensors`` holds numbers only. ``.pt`` and ``.pth`` are read with ``torch.load(weights_only=True)``, which refuses
every pickle that is more than a state dict.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from influence_core.errors import InvalidInput


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole or not at all.

    Args:
        path: file to write; an existing one is replaced.
        tensors: name -> tensor.
        metadata: short texts to keep beside them.
    """
    path = Path(path)
    part = path.with_name(path.name + ".tmp")
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, part, dict(metadata or {}))
    part.replace(path)


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a tensor file safely.

    Args:
        path: a ``.safetensors``, ``.pt`` or ``.pth`` file.

    Returns:
        name -> tensor, on the CPU.

    Raises:
        InvalidInput: if the file is missing, broken, or would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}. Check the path; paths in a study.toml count from its own folder.")
    try:
        loaded = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
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
    for key in ("state_dict", "model_state_dict", "model"):  # the usual wrappings of training scripts
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        keys = f" with {_some([str(key) for key in loaded])}" if isinstance(loaded, Mapping) else ""
        raise InvalidInput(f"{path} holds a {type(loaded).__name__}{keys}, expected a state dict (name -> tensor)")
    return {str(k): v for k, v in loaded.items()}


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str = "the state dict") -> nn.Module:
    """Put weights into a model after checking every name, shape and number.

    Args:
        model: is changed in place.
        state: name -> tensor. A leading ``module.`` (left by DataParallel) is dropped.
        source: where they come from, for messages.

    Returns:
        ``model``.

    Raises:
        InvalidInput: if a name is missing or unknown, a shape differs, or a value is NaN or infinite.
    """
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        raise InvalidInput(
            f"the weights in {source} do not fit the model {type(model).__name__}: "
            + "; ".join(f"{what} {_some(of)}" for what, of in (("missing", missing), ("not expected", unknown)) if of)
            + ". Build the model with the arguments it was trained with."
        )
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise InvalidInput(
                f"the weights in {source} do not fit: {name} has shape {tuple(tensor.shape)}, the model needs "
                f"{tuple(own[name].shape)}. Build the model with the arguments it was trained with."
            )
        check_finite(tensor, f"{name} in {source}")
    model.load_state_dict(dict(state))
    return model


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
        with safetensors.safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(key)
        return None if text is None else json.loads(text)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise InvalidInput(f"{path} is no safetensors file with readable facts about its {key}: {error}") from error


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
