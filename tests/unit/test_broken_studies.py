"""What is broken about a study is one sentence that names it, before anything is scored or written."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import influence_core as ic
from influence_core._torchvision import torchvision
from influence_core.models import architectures, plugins
from tests.picture_files import folder

torchvision()
from torchvision.transforms import v2  # noqa: E402

INPUTS = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
NET = """
import pathlib
import influence_core as ic

pathlib.Path(__file__).with_name("proof").write_text("it ran")


@ic.models.register("mynet")
def net():
    return ic.models.small_cnn(channels=3, classes=3)
"""


def net(**arguments: int) -> nn.Module:
    torch.manual_seed(0)
    return ic.models.small_cnn(**({"channels": 3, "classes": 3} | arguments))


def table(root: Path, **options: object) -> ic.data.LabelledDataset:
    return ic.data.image_table(root / "table.csv", **({"transform": INPUTS, "name": "train"} | options))


def save(root: Path, model: nn.Module | None = None, validation: object = None, **options: object) -> None:
    """A study of the table, saved."""
    data = table(root, **options)
    ic.Study(net() if model is None else model, data, data.subset([0, 5]), validation).save(root / "new")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures in three classes, a table of them, weights, a study that was saved, and one with a plugin."""
    monkeypatch.setattr(architectures, "_BUILDERS", dict(architectures._BUILDERS))
    monkeypatch.setattr(plugins, "_loaded", {})
    files = sorted(path.relative_to(tmp_path).as_posix() for path in folder(tmp_path / "set").rglob("*.png"))
    rows = pd.DataFrame({"file": files, "label": [file.split("/")[1] for file in files], "number": range(12)})
    rows.to_csv(tmp_path / "table.csv", index=False)
    torch.save(net().state_dict(), tmp_path / "weights.pt")
    data = table(tmp_path)
    ic.Study(net(), data, data.subset([0, 5])).save(tmp_path / "study")
    (tmp_path / "mynet.py").write_text(NET)
    model = ic.models.load_plugin(tmp_path / "mynet.py").builders["mynet"]()
    ic.Study(model, data, data.subset([0, 5])).save(tmp_path / "with a plugin", plugin=tmp_path / "mynet.py")
    (tmp_path / "proof").unlink()
    monkeypatch.setattr(plugins, "_loaded", {})
    return tmp_path


def cut(root: Path) -> None:
    file = root / "set" / "class 1" / "2.png"
    file.write_bytes(file.read_bytes()[:-60])


def flip(root: Path) -> None:
    """Another byte at equal size and time."""
    file = root / "set" / "class 1" / "2.png"
    at, whole = file.stat(), file.read_bytes()
    file.write_bytes(whole[:45] + bytes([whole[45] ^ 4]) + whole[46:])
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))


def grey(root: Path) -> ic.data.LabelledDataset:
    """The loaders give colour; a dataset of one's own may not."""
    data = torch.utils.data.TensorDataset(torch.rand(6, 1, 6, 6), torch.arange(6) % 3)
    ic.Study(net(), data, data).save(root / "new")


def without_statistics() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten())
    return nn.Sequential(*model, nn.Linear(64, 3))


def nothing(root: Path) -> None:
    """It is broken as it is."""


def gone(root: Path) -> None:
    (root / "set" / "class 2" / "1.png").unlink()


CASES: dict[str, tuple[Callable[[Path], None], Callable[[Path], object], str]] = {
    "a missing file": (gone, save, r"row 9 of .*table\.csv names the picture .*1\.png, which is not there"),
    "a wrong number of classes": (
        nothing,
        lambda root: save(root, net(classes=4)),
        "the train set names 3 classes, but the model has 4 outputs",
    ),
    "a label that is no class": (
        nothing,
        lambda root: save(root, label="number"),
        r"train sample 3 has label 3, but the model has 3 outputs",
    ),
    "grey pictures for a colour model": (nothing, grey, r"does not take the training images of shape \(1, 6, 6\)"),
    "a truncated picture": (cut, lambda root: ic.estimators.Loss().fit(loaded(root)), r"class 1/2\.png"),
    "weights of another architecture": (
        nothing,
        lambda root: save(root, ic.models.load_weights(net(width=8), root / "weights.pt")),
        r"weights\.pt do not fit",
    ),
    "an empty validation set": (
        nothing,
        lambda root: save(root, validation=table(root).subset([])),
        "the validation set is empty",
    ),
    "batch normalisation without running statistics": (
        nothing,
        lambda root: save(root, without_statistics()),
        r"1 \(BatchNorm2d\) keeps no running statistics",
    ),
    "a random transform": (
        nothing,
        lambda root: save(root, transform=v2.Compose([v2.RandomHorizontalFlip(), INPUTS])),
        "the train set has the random step RandomHorizontalFlip",
    ),
    "data that changed under a saved study": (
        flip,
        lambda root: ic.Study.load(root / "study"),
        r"class 1/2\.png is not the picture that the study was saved with \(its SHA-256 differs\)",
    ),
    "a plugin that is not trusted": (
        nothing,
        lambda root: ic.Study.load(root / "with a plugin"),
        r"mynet\.py.*trust=True",
    ),
}


def loaded(root: Path) -> ic.Study:
    """The study of the table as it is now."""
    data = table(root)
    return ic.Study(net(), data, data.subset([0, 5]))


def snapshot(root: Path) -> dict[str, str]:
    """SHA-256 of every file, and every folder."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in root.rglob("*")
    }


@pytest.mark.parametrize("case", CASES)
def test_a_broken_study_is_one_sentence_and_nothing_is_written(root: Path, case: str) -> None:
    prepare, attempt, message = CASES[case]
    prepare(root)
    before, modules = snapshot(root), set(sys.modules)
    with pytest.raises(ic.InfluenceError, match=message) as caught:
        attempt(root)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 500
    assert snapshot(root) == before
    assert not [name for name in set(sys.modules) - modules if "mynet" in name]


def test_what_is_whole_is_saved(root: Path) -> None:
    """The same calls, where nothing is broken."""
    before = snapshot(root)
    save(root, ic.models.load_weights(net(), root / "weights.pt"), validation=table(root).subset([3, 4]))
    assert set(snapshot(root)) - set(before) >= {"new", "new/study.toml"}
    assert ic.Study.load(root / "with a plugin", trust=True).num_classes == 3
    assert (root / "with a plugin" / "proof").exists()
