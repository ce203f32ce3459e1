"""Import torchvision, also where its wheel stands beside a CPU-only torch.

The torchvision wheel on the package index is compiled for one torch build. Beside another one its compiled operators
are not registered, and the import stops at "operator torchvision::nms does not exist", though datasets, transforms and
models need none of them. Declaring the schemas it looks for lets the import go through. Once ``influence_core`` has
been imported, ``import torchvision`` anywhere in the process does so.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: torch.library.Library | None = None  # kept alive: the schemas go with it


def torchvision() -> ModuleType:
    """Import torchvision.

    Returns:
        The module ``torchvision``, with ``datasets``, ``models`` and ``transforms`` ready to use.
    """
    return importlib.import_module("torchvision")


class _Finder:
    """Finds torchvision where Python does, and lets ``_Loader`` load it."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]  # all that it lacks is the inner one's
        return spec


class _Loader:
    """Loads as the loader inside of it; where operators are missing, once more after declaring them."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._inner
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        try:
            self._inner.exec_module(module)
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
            _declare()
            self._inner.exec_module(module)


def _declare() -> None:
    global _library
    import torch

    if _library is None:
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            _library.define(operator + _NMS)


if not any(isinstance(finder, type) and finder.__name__ == _Finder.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, _Finder)
