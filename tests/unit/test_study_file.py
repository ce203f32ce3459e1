from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import tomllib

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core import study_file
from influence_core.errors import InvalidInput
from influence_core.models import load_tensors, read_facts, save_tensors
from tests.helpers import images

NAMES = ["=cat", 'a "dog"', "<b>cow</b>\n\\ü"]


def make(**parts):
    torch.manual_seed(0)
    model = ic.models.build("mlp", inputs=16, classes=3, hidden=4)
    inputs, labels = torch.rand(12, 1, 4, 4), torch.arange(12) % 3
    train = ic.data.LabelledDataset(
        TensorDataset(inputs, labels), true_labels=(labels + (labels == 2)) % 3, class_names=NAMES, name="train"
    )
    settings = {"epochs": 2, "checkpoints": 2, "batch_size": 4, "weight_decay": 1e-05}
    trajectory = ic.training.fit(model, train, optimizer="sam", **settings)
    whole = {
        "model": model,
        "train": train,
        "test": TensorDataset(inputs[:5] / 2, labels[:5]),
        "validation": TensorDataset(inputs[:4] / 3, labels[:4]),
        "trajectory": trajectory,
        "weight_decay": 1e-05,
        "name": 'the "first" study\n',
    }
    return ic.Study(**(whole | parts))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    make().save(folder)
    return folder


def as_version_1(folder, target):
    """The same study as version 1 wrote it: plain names, no checksums; so what tests change in it is no damage."""
    raw = tomllib.loads((folder / "study.toml").read_text())
    target.mkdir()
    for part in ("model", "train", "validation", "test", "trajectory"):
        key = "weights" if part == "model" else "path"
        tensors, facts = load_tensors(folder / raw[part][key]), read_facts(folder / raw[part][key], "trajectory")
        texts = {"trajectory": json.dumps(facts)} if facts else {}
        safetensors.torch.save_file(tensors, target / f"{part}.safetensors", texts)
        raw[part][key] = f"{part}.safetensors"
        raw[part].pop("sha256")
    text = (
        f"version = 1\nname = {json.dumps(raw['name'])}\nclass_names = {json.dumps(raw['class_names'])}\n"
        f'loss = "{raw["loss"]}"\nweight_decay = {raw["weight_decay"]}\n\n[model]\narchitecture = "mlp"\n'
        'arguments = {"inputs" = 16, "classes" = 3, "hidden" = 4}\nweights = "model.safetensors"\n'
    )
    for split in ("train", "validation", "test"):
        text += f'\n[{split}]\nformat = "tensors"\npath = "{split}.safetensors"\n'
    (target / "study.toml").write_text(text + '\n[trajectory]\npath = "trajectory.safetensors"\n')
    return target


@pytest.fixture
def copied(saved, tmp_path):
    return as_version_1(saved, tmp_path / "study")


def same(left: ic.Study, right: ic.Study) -> None:
    assert left.fingerprint == right.fingerprint
    assert (left.name, left.class_names, left.weight_decay) == (right.name, right.class_names, right.weight_decay)
    for split in ("train", "validation", "test"):
        one, two = getattr(left, split), getattr(right, split)
        assert (one is None) == (two is None)
        if one is not None:
            assert (one.true_labels is None) == (two.true_labels is None)
            assert one.true_labels is None or torch.equal(one.true_labels, two.true_labels)
            assert one.class_names == two.class_names
    assert (left.trajectory is None) == (right.trajectory is None)
    if left.trajectory is not None:
        assert left.trajectory.recipe == right.trajectory.recipe
        assert left.trajectory.losses == right.trajectory.losses


def test_round_trip_bit_for_bit(saved, tmp_path):
    before = make()
    after = ic.Study.load(saved)
    same(before, after)
    assert torch.equal(before.outputs(), after.outputs())
    assert ic.Study.load(saved / "study.toml").fingerprint == before.fingerprint
    written = after.save(tmp_path / "deep" / "other.toml")
    assert written == tmp_path / "deep" / "other.toml"
    same(ic.Study.load(written), before)
    assert {p.name for p in saved.iterdir()} - {"study.toml"} == {p.name for p in written.parent.iterdir()} - {
        "other.toml"
    }
    for path in saved.iterdir():  # the same study is the same files, to the byte
        copy = written if path.name == "study.toml" else written.parent / path.name
        assert copy.read_bytes() == path.read_bytes()


def test_version_1_opens_and_is_saved_as_version_3(copied, saved, tmp_path):
    before = ic.Study.load(copied)
    same(before, ic.Study.load(saved))
    before.save(tmp_path / "new")
    assert "version = 3" in (tmp_path / "new" / "study.toml").read_text()
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(p.name for p in saved.iterdir())


def test_round_trip_of_the_smallest_study(tmp_path):
    before = make(validation=None, trajectory=None)
    before.save(tmp_path)
    same(before, ic.Study.load(tmp_path))


def test_a_model_of_ones_own(tmp_path):
    torch.manual_seed(0)
    own = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    before = make(model=own, trajectory=None)
    with pytest.warns(ic.ReopenWarning, match=r"how its model Sequential is built: .*save\(path, plugin=.*model="):
        before.save(tmp_path)
    with pytest.raises(InvalidInput, match=r"ic\.Study\.load\(path, model=my_model\)"):
        ic.Study.load(tmp_path)
    same(before, ic.Study.load(tmp_path, model=nn.Sequential(nn.Flatten(), nn.Linear(16, 3))))


def test_arguments_that_toml_cannot_hold(tmp_path, monkeypatch):
    from influence_core.models import architectures

    monkeypatch.setattr(architectures, "_BUILDERS", dict(architectures._BUILDERS))

    @ic.models.register("with_none")
    def with_none(dropout=None, sizes=()):
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))

    before = make(model=ic.models.build("with_none", dropout=None), trajectory=None)
    before.save(tmp_path)
    same(before, ic.Study.load(tmp_path, model=with_none()))


def cross_entropy(logits, labels):
    """A loss that only shares its name with ours."""
    return nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)


def test_a_loss_of_ones_own_is_not_taken_for_ours(tmp_path):
    before = make(loss=cross_entropy)
    before.save(tmp_path)
    with pytest.raises(InvalidInput, match=r"uses the loss '.*cross_entropy': pass it"):
        ic.Study.load(tmp_path)
    after = ic.Study.load(tmp_path, loss=cross_entropy)
    assert torch.equal(after.losses(), before.losses())


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
PLAIN = TEXT | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(TEXT, PLAIN | st.lists(TEXT)), TEXT, TEXT)
def test_any_names_and_arguments_are_written_and_read(arguments, name, class_name):
    whole = {
        "loss": "cross_entropy",
        "weight_decay": 0.0,
        "architecture": ic.models.Architecture("mlp", arguments),
        "weights": {"w": torch.ones(1)},
        "data": {"train": images(2), "test": images(2)},
    }
    with tempfile.TemporaryDirectory() as folder:
        names = [class_name, class_name + "x", class_name + "y"]
        study_file.write(study_file.Contents(name=name, class_names=names, **whole), folder)
        back = study_file.read(folder)
    assert (back.name, back.class_names, back.architecture.arguments) == (name, names, arguments)


def refusal(folder) -> str:
    """The message of the error, which has to be one sentence for a person."""
    with pytest.raises(InvalidInput) as caught:
        ic.Study.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert not re.search(r"pydantic|ValidationError|Traceback|input_value|type=|For further", message), message
    return message


def edit(folder, old, new):
    path = folder / "study.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = 1", "version = 4", r"study\.toml: 'version' is 4: .*1, 2 or 3"),
        ("version = 1\n", "", r"study\.toml: the key 'version' is missing"),
        ("version = 1", "verison = 1", "there is no key 'verison'; possible here: version"),
        ("weight_decay = 1e-05", "weight_deccay = 1e-05", "no key 'weight_deccay'; possible here: version, .*name"),
        ("weight_decay = 1e-05", "weight_decay = 'much'", "'weight_decay' is 'much'"),
        ("weight_decay = 1e-05", "weight_decay = -1", "'weight_decay' is -1: .*greater than or equal to 0"),
        ("weight_decay = 1e-05", "weight_decay = inf", "weight_decay is inf"),
        ("class_names = [", "class_names = 3  # [", "'class_names' is 3"),
        ("class_names = [", 'class_names = ["x", ', "names 4 classes, but the model has 3 outputs"),
        ('architecture = "mlp"', 'architecture = "mpl"', "no architecture 'mpl'. Known: cifar_resnet.*mlp.*small_cnn"),
        ('architecture = "mlp"', 'archtecture = "mlp"', r"no key 'model\.archtecture'; possible here: architecture"),
        (
            'architecture = "mlp"',
            'architecture = "mlp"\nextra = 1',
            "no key 'model.extra'; possible here: architecture",
        ),
        ('"hidden" = 4', '"hidden" = 5', r"model\.safetensors do not fit: .*shape \(4,.*needs \(5,"),
        ('"hidden" = 4', '"hiden" = 4', "'mlp' does not take the arguments .*hiden"),
        ('"hidden" = 4', '"hidden" = -4', "'mlp' does not take the arguments"),
        ('weights = "model.safetensors"', 'weights = "modle.safetensors"', r"there is no file .*modle\.safetensors"),
        (
            '[train]\nformat = "tensors"',
            '[train]\nformat = "zip"',
            r"\[train\] needs format = one of tensors, folder, parq",
        ),
        ('[train]\nformat = "tensors"', "[train]", r"\[train\] needs format"),
        ('path = "train.safetensors"', 'paht = "x"', r"no key 'train\.paht'; possible here: format, path"),
        (
            'path = "test.safetensors"',
            'path = "test.safetensors"\nsize = 3',
            "no key 'test.size'; possible here: format, path",
        ),
        ('path = "test.safetensors"', 'path = "nowhere.safetensors"', r"there is no file .*nowhere\.safetensors"),
        ('path = "test.safetensors"', "path = 3", "'test.path' is 3"),
        (
            'format = "tensors"\npath = "test.safetensors"',
            'format = "folder"\npath = "none"',
            r"there is no folder .*none",
        ),
        ('format = "tensors"\npath = "test.safetensors"', 'format = "parquet"\npath = "none"', "no file .*none"),
        (
            'format = "tensors"\npath = "test.safetensors"',
            'format = "folder"\npath = "none"\nsize = [3]',
            r"test\.size has to be two integers, \[height, width\]",
        ),
        ("[trajectory]\n", "trajectory = 3\n[trjectory]\n", "trajectory|trjectory"),
        ("[model]", "[modell]", "no key 'modell'; possible here: .*model"),
        ("[test]", "[tset]", "no key 'tset'; possible here: .*test"),
        ('[train]\nformat = "tensors"\npath = "train.safetensors"', "[train", r"study\.toml is not valid TOML"),
        ('loss = "cross_entropy"', 'loss = "hinge"', "uses the loss 'hinge'"),
        ('[validation]\nformat = "tensors"', '[validation]\nformat = ["tensors"]', r"\[validation\] needs format"),
    ],
)
def test_a_wrong_key_is_one_sentence(copied, old, new, message):
    edit(copied, old, new)
    assert re.search(message, refusal(copied)), refusal(copied)


def test_a_section_that_is_none(copied):
    text = (copied / "study.toml").read_text()
    text = text.replace('[test]\nformat = "tensors"\npath = "test.safetensors"\n', "")
    (copied / "study.toml").write_text("test = 3\n" + text)
    assert "'test' is 3" in refusal(copied)


def test_no_study_file(tmp_path):
    assert "there is no study file" in refusal(tmp_path)
    assert "there is no study file" in refusal(tmp_path / "x.toml")
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    assert "not valid TOML" in refusal(tmp_path / "x.toml")


@pytest.mark.parametrize("name", ["model", "train", "validation", "test", "trajectory"])
@pytest.mark.parametrize("kept", [None, 0, 0.9])
def test_a_tensor_file_that_is_missing_or_cut_off(copied, name, kept):
    path = copied / f"{name}.safetensors"
    whole = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(whole[: int(kept * len(whole))])
    message = refusal(copied)
    assert f"{name}.safetensors" in message
    assert ("there is no file" if kept is None else "no complete safetensors file") in message


def change(path, **tensors):
    kept = {k: v for k, v in (load_tensors(path) | tensors).items() if v is not None}
    save_tensors(path, kept)


@pytest.mark.parametrize(
    ("name", "tensors", "message"),
    [
        ("train", {"labels": torch.tensor([0, 1, 9] + [0] * 9)}, "train sample 2 has label 9.*between 0 and 2"),
        ("train", {"true_labels": torch.tensor([0, -1] + [0] * 10)}, "train sample 1 has label -1"),
        ("test", {"labels": torch.tensor([0.0] * 5)}, "test labels are torch.float32, expected integers"),
        ("test", {"inputs": torch.rand(5, 1, 4, 6)}, r"test images have shape \(1, 4, 6\).*train images \(1, 4, 4\)"),
        ("train", {"inputs": torch.rand(12, 1, 5, 5)}, r"does not take the training images of shape \(1, 5, 5\)"),
        ("test", {"labels": None}, r"test\.safetensors has no tensor 'labels'; it holds inputs"),
        ("test", {"labels": torch.tensor([0, 1])}, r"has \(5,\) inputs but \(2,\) labels"),
        ("validation", {"inputs": torch.rand(0, 1, 4, 4), "labels": torch.zeros(0).long()}, "validation set is empty"),
        ("model", {"3.bias": torch.tensor([0.0, float("nan"), 1.0])}, r"3\.bias in .*model\.safetensors has 1 of 3"),
        ("model", {"3.bias": None}, r"model\.safetensors do not fit the model Sequential: missing 3\.bias"),
        ("trajectory", {}, r"trajectory\.safetensors is no trajectory"),
    ],
)
def test_tensors_that_do_not_fit(copied, name, tensors, message):
    change(copied / f"{name}.safetensors", **tensors)
    assert re.search(message, refusal(copied)), refusal(copied)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ("no json", "readable facts"),
        ("[]", "not what Study.save"),
        ('{"checkpoints": [{"step": 1}], "recipe": {}, "losses": []}', "not what Study.save"),
        ('{"checkpoints": [], "recipe": {}, "losses": []}', "at least one checkpoint"),
    ],
)
def test_a_trajectory_with_broken_facts(copied, facts, message):
    path = copied / "trajectory.safetensors"
    save_tensors(path, load_tensors(path), {"trajectory": facts})
    assert message in refusal(copied)


def test_checkpoints_of_another_model(copied, tmp_path):
    torch.manual_seed(0)
    other = ic.models.build("mlp", inputs=16, classes=3, hidden=7)
    train = ic.data.LabelledDataset(TensorDataset(torch.rand(6, 1, 4, 4), torch.arange(6) % 3))
    trajectory = ic.training.fit(other, train, epochs=1, checkpoints=1, batch_size=3)
    ic.Study(other, train, train, trajectory=trajectory).save(tmp_path / "other")
    (found,) = (tmp_path / "other").glob("trajectory-*")
    shutil.copy(found, copied / "trajectory.safetensors")
    assert re.search(r"checkpoint at step 2 do not fit: 1\.(bias|weight) has shape \(7,", refusal(copied))


class Bomb:
    def __init__(self, proof):
        self.proof = str(proof)

    def __reduce__(self):
        return (os.system, (f"touch {self.proof}",))


@pytest.mark.parametrize("name", ["model", "train", "trajectory"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_nothing_in_a_study_is_executed(copied, tmp_path, name, suffix):
    torch.save({"weight": Bomb(tmp_path / "proof")}, copied / f"{name}.{suffix}")
    if suffix == "pt":
        edit(copied, f"{name}.safetensors", f"{name}.pt")
    assert f"{name}.{suffix}" in refusal(copied)
    assert not (tmp_path / "proof").exists()


def test_a_trajectory_that_is_no_safetensors_file(copied):
    torch.save({"a": torch.ones(1)}, copied / "trajectory.pt")
    edit(copied, "trajectory.safetensors", "trajectory.pt")
    assert "trajectory.pt" in refusal(copied)


def test_a_plain_pt_file_serves_as_weights(copied, saved):
    torch.save(load_tensors(copied / "model.safetensors"), copied / "model.pt")
    edit(copied, "model.safetensors", "model.pt")
    assert ic.Study.load(copied).fingerprint == ic.Study.load(saved).fingerprint


def test_data_in_folders(copied):
    import numpy as np
    from PIL import Image

    for i in range(3):
        folder = copied / "pictures" / f"c{i}"
        folder.mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 80 * i, np.uint8)).save(folder / "0.png")
    text = (copied / "study.toml").read_text()
    for name in ("train", "test", "validation"):
        text = text.replace(
            f'format = "tensors"\npath = "{name}.safetensors"',
            'format = "folder"\npath = "pictures"\nsize = [4, 4]\nmean = [0.5]\nstd = [0.5]',
        )
    text = re.sub(r"class_names = .*\n", "", text)
    (copied / "study.toml").write_text(text)
    loaded = ic.Study.load(copied)
    assert loaded.class_names == ["c0", "c1", "c2"]
    assert loaded.train.batch([2])[0].shape == (1, 1, 4, 4)
    assert loaded.train.filepath(1) == "c1/0.png"
    before = loaded.outputs()
    loaded.save(copied / "again")
    assert torch.equal(ic.Study.load(copied / "again").outputs(), before)


def test_the_files_of_version_1_go_with_it(copied):
    study = ic.Study.load(copied)
    torch.save({}, copied / "model.pt")
    shutil.copy(copied / "study.toml", copied / "other.toml")
    shutil.copy(copied / "train.safetensors", copied / "train-of-mine.safetensors")
    study.save(copied)
    assert ic.Study.load(copied / "other.toml").fingerprint == study.fingerprint  # which still names them
    (copied / "other.toml").rename(copied / "study.toml")
    study.save(copied)
    names = sorted(re.sub("-[0-9a-f]{12}", "", p.name) for p in copied.iterdir())
    expected = ["model.pt", "study.toml", "train-of-mine.safetensors"]
    assert names == sorted(
        [*expected, *(f"{part}.safetensors" for part in ("model", "trajectory", *study_file.SPLITS))]
    )
    assert not (copied / "model.safetensors").exists()
    same(ic.Study.load(copied), study)
