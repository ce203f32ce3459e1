"""Weights as other programs leave them: wrapped, with names that begin otherwise, or inside of a whole program."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from influence_core.errors import InvalidInput

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, ``torch.compile`` and the LightningModules of most people put before every name."""

_WRAPPINGS = ("state_dict", "model_state_dict", "model")
"""Under which key training scripts, and Lightning, keep the weights beside their other facts."""


def unwrapped(loaded: Any) -> Any:
    """The state dict in what a file held; what is wrapped in nothing is itself."""
    for key in _WRAPPINGS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    return loaded


def without_prefixes(state: Mapping[str, Tensor], own: Collection[str]) -> Mapping[str, Tensor]:
    """Weights under the names that a model has for them.

    Args:
        state: name -> tensor.
        own: names in the model's state dict.

    Returns:
        The same tensors. A prefix is dropped if every name has it and what is left are the model's names; several, one
        after the other. Where nothing fits, those are dropped that no name of the model begins with, so that a message
        about the rest is to the point.
    """
    wanted, plain, found = set(own), state, state
    while found and found.keys() != wanted:
        prefix = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in found)), None)
        if prefix is None:
            return plain
        foreign = found is plain and not any(name.startswith(prefix) for name in wanted)
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
        plain = found if foreign else plain
    return found


def refuse_program(path: Path) -> None:
    """Refuse files that hold a recorded program, of ``torch.jit`` or ``torch.export``, in one sentence.

    Args:
        path: an existing file.

    Raises:
        InvalidInput: saying how to get the weights out of it.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] or name for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError):
        return
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        kind, way = "a TorchScript program", "torch.jit.load(file).state_dict()"
    elif names & {"archive_format", "models/model.json", "serialized_exported_program.json"}:
        kind, way = "an exported program", "torch.export.load(file).state_dict"
    else:
        return
    raise InvalidInput(
        f"{path} holds {kind}, not weights alone, and it was not run: build the torch.nn.Module that it was made from, "
        f"and save the weights for it, where you trust the file, with torch.save({way}, 'model.pt')"
    )
