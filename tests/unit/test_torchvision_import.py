"""``import torchvision`` goes through once ``influence_core`` is imported, whatever torch stands beside it."""

from __future__ import annotations

import subprocess
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from influence_core import _torchvision

ROOT = Path(__file__).parents[2]


def test_torchvision_is_imported_as_ever_after_influence_core() -> None:
    code = (
        "import influence_core as ic, sys; print('torchvision' in sys.modules)\n"
        "import torchvision, inspect\n"
        "from torchvision import datasets, transforms\n"
        "print(type(torchvision.__loader__).__name__, torchvision.__spec__.loader is torchvision.__loader__)\n"
        "print(ic.models.recognised(torchvision.models.squeezenet1_0(num_classes=3)).name)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout.split() == ["False", "SourceFileLoader", "True", "torchvision:squeezenet1_0"], ran.stderr


class Stopping:
    """A loader that fails so many times, with a sentence."""

    def __init__(self, times: int, sentence: str) -> None:
        self.left, self.sentence, self.loaded = times, sentence, 0

    def exec_module(self, module: types.ModuleType) -> None:
        self.left -= 1
        if self.left >= 0:
            raise RuntimeError(self.sentence)
        self.loaded += 1


@pytest.mark.parametrize(
    ("times", "sentence", "declared"),
    [
        (0, "", 0),
        (1, "operator torchvision::nms does not exist", 1),
        (1, "no space", None),
        (2, "torchvision::x", None),
    ],
)
def test_only_missing_operators_are_declared(times, sentence, declared, monkeypatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(_torchvision, "_declare", lambda: calls.append(1))
    inner, module = Stopping(times, sentence), types.ModuleType("torchvision")
    module.__spec__ = ModuleSpec("torchvision", None)
    loader = _torchvision._Loader(inner)
    if declared is None:
        with pytest.raises(RuntimeError, match=sentence):
            loader.exec_module(module)
        assert len(calls) == times - 1
        return
    loader.exec_module(module)
    assert (inner.loaded, len(calls)) == (1, declared)
    assert module.__loader__ is module.__spec__.loader is inner


def test_other_imports_are_left_to_python() -> None:
    assert _torchvision._Finder.find_spec("torchvision.models") is None
    assert _torchvision._Finder.find_spec("json") is None
