"""The label files of CIFAR-N: labels that people gave, read without running anything."""

from __future__ import annotations

import importlib
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from influence_core.data.images import checked_path
from influence_core.errors import InvalidInput

_alone = threading.Lock()


def cifar_n_labels(path: str | Path, column: str = "worse_label") -> Tensor:
    """Labels of CIFAR-10N or CIFAR-100N.

    They are in the order of torchvision's CIFAR: ``LabelledDataset(cifar, labels=cifar_n_labels(path),
    true_labels=cifar.targets)``.

    Args:
        path: ``CIFAR-10_human.pt`` or ``CIFAR-100_human.pt``, as their authors publish them.
        column: of CIFAR-10N "clean_label", "aggre_label", "worse_label", "random_label1" to 3; of CIFAR-100N
            "clean_label", "noisy_label", "noisy_coarse_label".

    Returns:
        int64 [N].

    Raises:
        InvalidInput: if there is no such file or column, or the file holds more than arrays of numbers.
    """
    path = checked_path(path)
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}")
    if path.suffix == ".npy":
        raise InvalidInput(
            f"{path} is a pickle in the guise of an array, and reading it could run somebody else's code: give the "
            ".pt file of CIFAR-N"
        )
    try:
        with _alone, torch.serialization.safe_globals(_of_arrays()):
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InvalidInput(
            f"{path} is a pickle that holds more than arrays of numbers; loading it could run somebody else's code, so "
            "it was not loaded: copy the published file again"
        ) from error
    except Exception as error:  # whatever a broken file makes the reader trip over
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidInput(f"{path} cannot be read as a label file of CIFAR-N: {first}") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise InvalidInput(f"{path} holds a {type(found).__name__}, expected a dictionary of label arrays")
    if column not in found:
        raise InvalidInput(f"{path} has no labels {column!r}; it has {', '.join(found) or 'none'}")
    labels = found[column]
    array = labels.numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidInput(
            f"{column!r} of {path} is {array.dtype} of shape {array.shape}, expected one integer a picture"
        )
    return torch.from_numpy(array.astype(np.int64))


def _of_arrays() -> list[Any]:
    """What a pickle of NumPy arrays of numbers names, under its names of NumPy 1 and 2."""
    multiarray: Any = importlib.import_module("numpy._core.multiarray")
    kinds = [getattr(np.dtypes, name) for name in dir(np.dtypes) if name.endswith("DType") and name != "ObjectDType"]
    return [
        np.ndarray,
        np.dtype,
        *kinds,
        *(
            (getattr(multiarray, function), f"numpy.{core}.multiarray.{function}")
            for core in ("core", "_core")
            for function in ("_reconstruct", "scalar")
        ),
    ]
