"""Import torchvision, also where its wheel stands beside a CPU-only torch.

The torchvision wheel on the package index is compiled for one torch build. Beside another one its compiled operators
are not registered, and the import stops at "operator torchvision::nms does not exist", though datasets, transforms and
models need none of them. Declaring the schemas it looks for lets the import go through.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: torch.library.Library | None = None  # kept alive: the schemas go with it


def torchvision() -> ModuleType:
    """Import torchvision.

    Returns:
        The module ``torchvision``, with ``datasets``, ``models`` and ``transforms`` ready to use.

    Raises:
        RuntimeError: if torchvision cannot be imported for another reason.
    """
    global _library
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        _library.define(operator + _NMS)
    return importlib.import_module("torchvision")
