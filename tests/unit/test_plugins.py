"""Plugins: code beside a study, which runs by consent only."""

from __future__ import annotations

import hashlib
import pickle
import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.errors import InvalidInput
from influence_core.models import architecture_of, architectures, plugins

NET = """
import pathlib

import torch
from torch import nn

import influence_core as ic

pathlib.Path({proof!r}).write_text("it ran")


@ic.models.register("net")
class Net(nn.Module):
    def __init__(self, width, power=1):
        super().__init__()
        self.first, self.last, self.power = nn.Linear(16, width), nn.Linear(width, 3), power

    def forward(self, inputs):
        return self.last(torch.tanh(self.first(inputs.flatten(1)))) ** self.power{change}


class Bare(nn.Linear):
    def __init__(self):
        super().__init__(16, 3)

    def forward(self, inputs):
        return super().forward(inputs.flatten(1))
"""


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch):
    """As if nothing had been registered or run."""
    monkeypatch.setattr(architectures, "_BUILDERS", dict(architectures._BUILDERS))
    monkeypatch.setattr(plugins, "_loaded", {})


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(architectures, "_BUILDERS", {k: v for k, v in architectures._BUILDERS.items() if k != "net"})


@pytest.fixture
def proof(tmp_path):
    return tmp_path / "proof"


@pytest.fixture
def file(tmp_path, proof):
    path = tmp_path / "mynet.py"
    path.write_text(NET.format(proof=str(proof), change=""))
    return path


def study_of(model: nn.Module) -> ic.Study:
    inputs = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(inputs, torch.arange(4) % 3)
    return ic.Study(model, data, data)


def key(folder: Path, name: str) -> object:
    return tomllib.loads((folder / "study.toml").read_text())["model"].get(name)


def edit(folder: Path, old: str, new: str) -> None:
    text = re.sub("^checksum = .*\n", "", (folder / "study.toml").read_text())
    assert old in text
    (folder / "study.toml").write_text(text.replace(old, new))


@pytest.fixture
def saved(file, proof, tmp_path, monkeypatch):
    """A study with its plugin, and what it said; the plugin has not run in this process."""
    made = ic.models.load_plugin(file).builders["net"](5, power=2)
    before = study_of(made)
    before.save(tmp_path / "study", plugin=file)
    forget(monkeypatch)
    proof.unlink()
    return tmp_path / "study", before


def test_a_plugin_runs_only_by_consent(saved, proof, file):
    folder, before = saved
    assert (key(folder, "plugin"), key(folder, "architecture")) == ("mynet.py", "net")
    assert key(folder, "plugin_sha256") == hashlib.sha256(file.read_bytes()).hexdigest()
    assert key(folder, "arguments") == {"width": 5, "power": 2}
    message = (
        rf"^the study in {re.escape(str(folder))} needs its plugin mynet\.py, which is Python code that would run .*"
    )
    with pytest.raises(
        InvalidInput, match=message + r"ic\.Study\.load\(path, trust=True\), .*--trust, or .*--plugin .*mynet\.py$"
    ):
        ic.Study.load(folder)
    assert not proof.exists()
    after = ic.Study.load(folder, trust=True)
    assert proof.exists()
    assert after.fingerprint == before.fingerprint
    assert torch.equal(after.outputs(), before.outputs())
    assert "net" not in ic.models.names()


def test_with_the_model_at_hand_the_plugin_is_not_needed(saved, proof):
    folder, before = saved
    (folder / "mynet.py").unlink()
    assert ic.Study.load(folder, model=before.model).fingerprint == before.fingerprint
    assert not proof.exists()


def test_a_plugin_that_was_loaded_may_run_and_a_changed_one_may_not(saved, file, proof):
    folder, before = saved
    ic.models.load_plugin(file)
    assert "net" in ic.models.names()
    assert ic.Study.load(folder).fingerprint == before.fingerprint
    with (folder / "mynet.py").open("a") as plugin:
        plugin.write("# changed\n")
    proof.unlink()
    for trust in (False, True):
        with pytest.raises(
            InvalidInput, match=r"mynet\.py is not the file that the study was saved with \(its SHA-256"
        ):
            ic.Study.load(folder, trust=trust)
    edit(folder, f'plugin_sha256 = "{key(folder, "plugin_sha256")}"\n', "")
    with pytest.raises(InvalidInput, match="needs its plugin"):
        ic.Study.load(folder)
    assert not proof.exists()
    assert ic.Study.load(folder, trust=True).fingerprint == before.fingerprint  # a comment computes nothing


def test_what_a_plugin_computes_is_part_of_the_fingerprint(saved, file, proof, monkeypatch):
    folder, before = saved
    (folder / "mynet.py").write_text(NET.format(proof=str(proof), change=" + 0"))
    edit(folder, f'plugin_sha256 = "{key(folder, "plugin_sha256")}"\n', "")
    with pytest.raises(InvalidInput, match="is not the one that was saved: its fingerprint"):
        ic.Study.load(folder, trust=True)
    edit(folder, f'fingerprint = "{before.fingerprint}"\n', "")
    changed = ic.Study.load(folder, trust=True)
    assert torch.equal(changed.outputs(), before.outputs())
    assert changed.fingerprint != before.fingerprint


def test_the_plugin_goes_along_when_a_study_is_saved_again(saved, tmp_path, monkeypatch):
    folder, before = saved
    ic.Study.load(folder, trust=True).save(tmp_path / "again")
    assert (tmp_path / "again" / "mynet.py").read_bytes() == (folder / "mynet.py").read_bytes()
    forget(monkeypatch)
    again = ic.Study.load(tmp_path / "again", trust=True)
    assert again.fingerprint == before.fingerprint
    again.save(tmp_path / "again")
    assert [p.name for p in (tmp_path / "again").glob("*.py")] == ["mynet.py"]


def test_a_file_of_the_same_name_is_left_alone(saved, tmp_path, monkeypatch):
    folder, before = saved
    other = tmp_path / "other"
    other.mkdir()
    (other / "mynet.py").write_text("print('mine')")
    study = ic.Study.load(folder, trust=True)
    for _ in range(2):
        study.save(other)
        digest = str(key(other, "plugin_sha256"))
        assert sorted(p.name for p in other.glob("*.py")) == [f"mynet-{digest[:12]}.py", "mynet.py"]
    assert (other / "mynet.py").read_text() == "print('mine')"
    forget(monkeypatch)
    again = ic.Study.load(other, trust=True)
    assert again.fingerprint == before.fingerprint
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / f"mynet-{digest[:12]}.py").write_text("print('mine too')")
    again.save(tmp_path / "third")


def test_two_plugins_with_the_same_names_do_not_meet(tmp_path, proof):
    loaded = {}
    for width, change in ((4, ""), (6, " * 2")):
        folder = tmp_path / str(width)
        folder.mkdir()
        (folder / "mynet.py").write_text(NET.format(proof=str(proof), change=change))
        made = ic.models.run_plugin(folder / "mynet.py").builders["net"](width)
        study_of(made).save(folder / "study", plugin=folder / "mynet.py")
        loaded[width] = ic.Study.load(folder / "study", trust=True)
    one, two = (loaded[width].model for width in (4, 6))
    assert type(one) is not type(two)
    assert (one.first.out_features, two.first.out_features) == (4, 6)
    assert architecture_of(one).name.startswith("net@")
    assert architecture_of(one).name != architecture_of(two).name
    assert ic.training.reinitialised(two, seed=1).first.out_features == 6
    again = pickle.loads(pickle.dumps(two))
    assert type(again) is type(two)


def test_a_class_that_is_not_registered_serves_where_it_needs_no_arguments(file, tmp_path, monkeypatch):
    bare = ic.models.run_plugin(file).module.Bare
    before = study_of(bare())
    before.save(tmp_path / "study", plugin=file)
    assert (key(tmp_path / "study", "architecture"), key(tmp_path / "study", "arguments")) == ("Bare", {})
    forget(monkeypatch)
    assert ic.Study.load(tmp_path / "study", trust=True).fingerprint == before.fingerprint
    edit(tmp_path / "study", '"Bare"', '"Bear"')
    with pytest.raises(InvalidInput, match=r"mynet\.py has no architecture 'Bear'; it registers net: decorate"):
        ic.Study.load(tmp_path / "study", trust=True)


def test_a_module_that_the_user_imported_is_the_same_as_the_plugin(file, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    import mynet  # type: ignore[import-not-found]

    try:
        before = study_of(mynet.Net(4))
        assert architecture_of(before.model) == ("net", {"width": 4})
        before.save(tmp_path / "study", plugin=file)
        forget(monkeypatch)
        assert ic.Study.load(tmp_path / "study", trust=True).fingerprint == before.fingerprint
    finally:
        del sys.modules["mynet"]


@pytest.mark.parametrize("made", [lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), lambda: ic.models.mlp(16, 3)])
def test_a_plugin_that_does_not_build_the_model_is_refused(made, file, tmp_path):
    with pytest.raises(
        InvalidInput, match=r"nothing in .*mynet\.py builds the model Sequential of this study: decorate"
    ):
        study_of(made()).save(tmp_path / "study", plugin=file)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x", r"was stopped by an error: NameError: name 'x' is not defined \(line 1\)"),
        ("\n\nraise SystemExit", r"was stopped by an error: SystemExit: +\(line 3\)"),
        ("a b", r"was stopped by an error: SyntaxError: invalid syntax \(line 1\)"),
        ("import influence_core as ic\nic.models.load_plugin(__file__)", "needs itself, because it saves or loads"),
        ("#" * (1 << 20) + "#", "is no plugin: it is larger than 1,048,576 bytes"),
        (None, "there is no plugin .*: it is a Python file that lies beside the study.toml"),
    ],
)
def test_a_plugin_that_does_not_run_is_one_sentence(text, said, tmp_path):
    path = tmp_path / "bad.py"
    if text is not None:
        path.write_text(text)
    before = set(sys.modules)
    with pytest.raises(InvalidInput, match=said) as caught:
        ic.models.load_plugin(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {name for name in set(sys.modules) - before if name.startswith("influence_plugin")} == set()


@pytest.mark.parametrize("name", ["../mynet.py", "/tmp/mynet.py", "a\\\\mynet.py", "mynet.txt", ""])
def test_a_plugin_is_a_python_file_beside_the_study(name, saved):
    folder, _ = saved
    edit(folder, 'plugin = "mynet.py"', f'plugin = "{name}"')
    with pytest.raises(InvalidInput, match=r"'model\.plugin' is '.*': "):
        ic.Study.load(folder, trust=True)
