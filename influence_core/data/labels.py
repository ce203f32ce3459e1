"""Labels: read from any dataset, checked once."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from influence_core.errors import InvalidInput


def read_labels(base: Dataset[Any], name: str) -> Any:
    """The labels of a dataset, without a pass over its inputs where it keeps them apart.

    Args:
        base: map-style dataset of ``(input tensor, label)``.
        name: what messages call it.

    Returns:
        Whatever holds the labels, [N].

    Raises:
        InvalidInput: if there are none.
    """
    if isinstance(base, TensorDataset):
        if len(base.tensors) < 2:
            raise InvalidInput(f"the {name} TensorDataset has no second tensor; it has to hold (inputs, labels)")
        return base.tensors[1]
    if isinstance(base, Subset) and not isinstance(base.dataset, TensorDataset):
        whole = _kept_apart(base.dataset)
        if whole is not None:
            return np.asarray(whole)[np.asarray(base.indices, dtype=np.int64)]
    apart = _kept_apart(base)
    return [_label(base, i, name) for i in range(len(base))] if apart is None else apart  # type: ignore[arg-type]


def _kept_apart(base: Any) -> Any:
    """The labels of a dataset that has them as an attribute, or ``None``."""
    for attribute in ("labels", "targets"):  # torchvision's names; they spare a pass over the inputs
        found = getattr(base, attribute, None)
        if found is not None and not callable(found) and getattr(base, "target_transform", None) is None:
            return found
    return None


def _label(base: Dataset[Any], index: int, name: str) -> int:
    item = base[index]
    try:
        return operator.index(item[1])
    except (TypeError, IndexError, KeyError) as error:
        kind = type(item).__name__ if not isinstance(item, (tuple, list)) else [type(part).__name__ for part in item]
        raise InvalidInput(
            f"{name} sample {index} is {kind}, expected (input tensor, label) with an integer as label"
        ) from error


def label_tensor(labels: Any, size: int, what: str) -> Tensor:
    """Labels as a tensor of their own.

    Args:
        labels: anything that holds integers.
        size: N.
        what: their name, for messages.

    Returns:
        int64 [N].

    Raises:
        InvalidInput: if they are no N integers.
    """
    try:
        tensor = torch.as_tensor(np.asarray(labels) if not isinstance(labels, Tensor) else labels).detach().cpu()
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"the {what} are no numbers; give integers from 0 to the number of classes less one, and the names as "
            "class_names"
        ) from error
    if tensor.ndim != 1 or tensor.numel() != size:
        raise InvalidInput(
            f"the {what} have shape {tuple(tensor.shape)}, expected one integer for each of {size} samples"
        )
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise InvalidInput(f"the {what} are {tensor.dtype}, expected integers from 0 to the number of classes less one")
    return tensor.to(torch.long).clone()


def check_labels(labels: Tensor, classes: int, name: str, because: str = "there are {} classes") -> None:
    """Refuse labels that are no class.

    Args:
        labels: int64 [n].
        classes: K.
        name: of the dataset, for the message.
        because: what decides K, for the message.

    Raises:
        InvalidInput: naming the first label out of range.
    """
    bad = ((labels < 0) | (labels >= classes)).nonzero().flatten()
    if bad.numel():
        first = int(bad[0])
        raise InvalidInput(
            f"{name} sample {first} has label {int(labels[first])}, but {because.format(classes)}: labels must lie "
            f"between 0 and {classes - 1} ({bad.numel()} of {labels.numel()} are out of range)"
        )
