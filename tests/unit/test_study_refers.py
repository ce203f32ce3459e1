"""A saved study refers to its data: the same inputs to the bit when it is loaded, and any other file is named."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tomllib
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset

import influence_core as ic
from influence_core._torchvision import torchvision
from influence_core.data import image_folder, image_table, parquet_images
from influence_core.data.reading import spread_ids
from influence_core.errors import InvalidInput
from tests.picture_files import encoded, folder, noise

torchvision()
from torchvision import datasets  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]
INPUTS = v2.Compose([v2.Resize((5, 5)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
NAMES = ["class 0", "class 1", "class 2"]


def table_of(root, kind, image):
    files = sorted(path.relative_to(root.parent).as_posix() for path in root.rglob("*.png"))
    frame = pd.DataFrame(
        {
            "file": files,
            "label": [int(file.split("/")[1][-1]) for file in files],
            "truth": [(int(file.split("/")[1][-1]) + (i == 4)) % 3 for i, file in enumerate(files)],
            "name": [f"sample {i}" for i in range(len(files))],
        }
    )
    path = root.parent / f"table.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
        return image_table(path, true_label="truth", sample_id="name", class_names=NAMES, transform=INPUTS)
    frame["content"] = [(root.parent / file).read_bytes() for file in files]
    frame.to_parquet(path) if kind == "parquet" else frame.to_feather(path)
    return image_table(
        path, file=image, true_label="truth", sample_id="name", class_names=NAMES, transform=INPUTS, name="train"
    )


def fashion(root, train):
    """Files of FashionMNIST as torchvision reads them, with generated pictures."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part, seed in (("train", 1), ("t10k", 2)):
        pixels, labels = noise(seed, (12, 6, 6)), np.arange(12, dtype=np.uint8) % 3
        head = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in pixels.shape)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + (12).to_bytes(4, "big") + labels.tobytes())
    base = datasets.FashionMNIST(str(root), train=train, transform=INPUTS_OF_GREY)
    base.classes = NAMES
    return base


INPUTS_OF_GREY = v2.Compose([v2.Grayscale(3), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


def sources(where):
    root = where / "set" if (where / "set").exists() else folder(where / "set")
    return {
        "folder": lambda: image_folder(root, transform=INPUTS),
        "folder, scaled": lambda: image_folder(root, size=(4, 6), mean=[0.5], std=[0.25]),
        "csv": lambda: table_of(root, "csv", "file"),
        "paths in parquet": lambda: table_of(root, "parquet", "file"),
        "bytes in parquet": lambda: table_of(root, "parquet", "content"),
        "bytes in feather": lambda: table_of(root, "feather", "content"),
        "ImageFolder": lambda: ic.data.wrap(datasets.ImageFolder(str(root), INPUTS), "train"),
        "torchvision": lambda: ic.data.wrap(fashion(where, True), "train"),
        "bytes in memory": lambda: ic.data.LabelledDataset(
            ic.data.EncodedImages(
                [encoded(Image.fromarray(noise(i))) for i in range(12)], torch.arange(12) % 3, (4, 4)
            ),
            class_names=NAMES,
        ),
    }


KINDS = ["folder", "folder, scaled", "csv", "paths in parquet", "bytes in parquet", "bytes in feather"]
ALL = [*KINDS, "ImageFolder", "torchvision", "bytes in memory"]
CHANGES = {
    "as it is": lambda data: data,
    "other labels": lambda data: data.with_labels((data.labels + 1) % 3),
    "some, in another order": lambda data: data.subset([7, 2, 11, 0, 5]),
    "both, twice": lambda data: (
        data.subset([7, 2, 11, 0, 5]).with_labels([2, 1, 0, 1, 2]).subset(torch.tensor([False, True, True, True, True]))
    ),
    "known truth": lambda data: ic.data.LabelledDataset(
        data.base, true_labels=torch.arange(12) % 3, class_names=NAMES, pictures=data.picture, filepaths=data.filepaths
    ),
}


def study_of(train, test=None):
    torch.manual_seed(0)
    channels = train.batch([0])[0].shape[1]
    model = ic.models.build("small_cnn", channels=channels, classes=3)
    return ic.Study(model, train, train.subset([1, 0]) if test is None else test, name="of files")


def same(left: ic.Study, right: ic.Study) -> None:
    assert left.fingerprint == right.fingerprint
    assert left.class_names == right.class_names
    for split in ("train", "test"):
        one, two = left.split(split), right.split(split)
        assert torch.equal(one.batch(range(len(one)))[0], two.batch(range(len(two)))[0])
        assert torch.equal(one.labels, two.labels)
        assert (one.true_labels is None) == (two.true_labels is None)
        assert one.true_labels is None or torch.equal(one.true_labels, two.true_labels)
        assert (one.filepaths, one.sample_ids) == (two.filepaths, two.sample_ids)
        for i in range(len(one)):
            assert one.sample_sha256(i) == two.sample_sha256(i)
            assert np.array_equal(np.asarray(one.picture(i)), np.asarray(two.picture(i)))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ALL)
def test_the_same_study_comes_back(tmp_path, kind, change):
    before = study_of(CHANGES[change](sources(tmp_path)[kind]()))
    file = before.save(tmp_path / "study")
    after = ic.Study.load(file)
    same(before, after)
    again = after.save(tmp_path / "study")
    assert again.read_bytes() == file.read_bytes()
    same(before, ic.Study.load(again))
    raw = tomllib.loads(file.read_text())
    expected = {"ImageFolder": "folder", "torchvision": "torchvision"}.get(kind, "table")
    assert raw["train"]["format"] == ("folder" if kind.startswith("folder") else expected)
    written = sum(path.stat().st_size for path in file.parent.glob("train-*"))
    if kind in ("bytes in parquet", "bytes in feather", "torchvision") and change == "as it is":
        assert written == 0


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ALL)
def test_a_copy_can_be_sent(tmp_path, kind, change):
    (tmp_path / "mine").mkdir()
    before = study_of(CHANGES[change](sources(tmp_path / "mine")[kind]()))
    before.save(tmp_path / "study", copy_data=True)
    shutil.copytree(tmp_path / "study", tmp_path / "theirs")
    expected = {s: before.split(s).batch(range(len(before.split(s))))[0] for s in ("train", "test")}
    keep = before
    shutil.rmtree(tmp_path / "study")
    shutil.move(tmp_path / "mine", tmp_path / "gone")
    after = ic.Study.load(tmp_path / "theirs")
    assert after.fingerprint == before.fingerprint
    for split, inputs in expected.items():
        data = after.split(split)
        assert torch.equal(data.batch(range(len(data)))[0], inputs)
        assert data.filepaths == keep.split(split).filepaths
        assert data.sample_ids == keep.split(split).sample_ids
        assert [data.sample_sha256(i) for i in range(len(data))] == [
            keep.split(split)._encoded()[0].sha256(j) for j in (keep.split(split).root()[1] or range(len(data)))
        ]
    after.save(tmp_path / "other")  # a file of one study is never what another refers to
    shutil.rmtree(tmp_path / "theirs")
    assert ic.Study.load(tmp_path / "other").fingerprint == before.fingerprint


def test_paths_are_relative_where_both_can_be_moved_together(tmp_path):
    (tmp_path / "a").mkdir()
    study = study_of(sources(tmp_path / "a")["csv"]())
    study.save(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    moved = ic.Study.load(tmp_path / "b")
    assert moved.fingerprint == study.fingerprint
    assert tomllib.loads((tmp_path / "b" / "study.toml").read_text())["train"]["path"] == "table.csv"
    moved.save(tmp_path / "c")
    assert tomllib.loads((tmp_path / "c" / "study.toml").read_text())["train"]["path"] == str(tmp_path / "b/table.csv")
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(InvalidInput, match=r"there is no file .*b/table\.csv, which the study"):
        ic.Study.load(tmp_path / "c")


def flip(file, place):
    """Another byte at equal size and time."""
    at, whole = file.stat(), file.read_bytes()
    place = place % len(whole)
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))
    return whole


@pytest.mark.parametrize("place", [30, -40, -1])
@pytest.mark.parametrize("kind", ["folder", "csv", "paths in parquet", "bytes in parquet", "bytes in feather"])
def test_a_flipped_byte_is_named_when_a_study_is_opened(tmp_path, kind, place):
    study = study_of(sources(tmp_path)[kind]())
    study.save(tmp_path / "study")
    files = [tmp_path / "study" / "study.toml", *(tmp_path / "study").glob("*-*")]
    files += [tmp_path / "set/class 1/2.png"] if kind in ("folder", "csv", "paths in parquet") else []
    files += list(tmp_path.glob("table.*"))
    assert len(files) >= 4
    for file in files:
        whole = flip(file, place)
        with pytest.raises(InvalidInput) as caught:
            ic.Study.load(tmp_path / "study")
        assert file.name in str(caught.value)
        assert "\n" not in str(caught.value)
        file.write_bytes(whole)
    same(study, ic.Study.load(tmp_path / "study"))


def test_many_pictures_are_compared_when_they_are_read(tmp_path, monkeypatch):
    from influence_core.data.sources import Files

    study_of(image_folder(folder(tmp_path / "set", each=30), transform=INPUTS)).save(tmp_path / "study")
    flip(tmp_path / "set/class 1/10.png", -30)
    monkeypatch.setattr(Files, "at_hand", property(lambda self: False))
    message = r"class 1/10\.png is not the picture that the study was saved with \(its SHA-256 differs\)"
    loaded = ic.Study.load(tmp_path / "study")
    at = loaded.train.filepaths.index("class 1/10.png")
    assert at not in spread_ids(90)  # which are read when a study is made
    for read in (
        lambda: loaded.fingerprint,
        lambda: loaded.train.batch([at]),
        lambda: loaded.train.picture(at),
        lambda: ic.Study.load(tmp_path / "study").outputs("train"),
        lambda: ic.Study.load(tmp_path / "study").check_finite(),
        lambda: ic.estimators.Loss().fit(ic.Study.load(tmp_path / "study")),
    ):
        with pytest.raises(InvalidInput, match=message):
            read()
    assert loaded.train.batch([5])[0].shape == (1, 3, 5, 5)


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_pictures_that_are_missing_or_longer(tmp_path, kind, monkeypatch):
    from influence_core.data.sources import Files

    study = study_of(sources(tmp_path)[kind]())
    study.save(tmp_path / "study")
    monkeypatch.setattr(Files, "at_hand", property(lambda self: False))
    file = tmp_path / "set/class 2/1.png"
    whole = file.read_bytes()
    file.write_bytes(whole + b"x")
    message = rf"class 2/1\.png is not .*saved with \(it has {len(whole) + 1} bytes, not {len(whole)}\)"
    with pytest.raises(InvalidInput, match=message):
        ic.Study.load(tmp_path / "study")
    file.unlink()
    with pytest.raises(InvalidInput, match=r"class 2/1\.png, which (the study needs|is not there)"):
        ic.Study.load(tmp_path / "study")
    os.mkfifo(file)
    with pytest.raises(InvalidInput, match=r"1\.png has the name of a picture but is no plain file"):
        ic.Study.load(tmp_path / "study")
    file.unlink()
    file.write_bytes(whole)
    (tmp_path / "set/class 2/new.png").write_bytes(whole)  # none of the study's
    same(study, ic.Study.load(tmp_path / "study"))


def test_a_table_that_changed_since_it_was_read_is_written_out(tmp_path):
    data = table_of(folder(tmp_path / "set"), "parquet", "content")
    study = study_of(data)
    frame = pd.read_parquet(tmp_path / "table.parquet")
    frame.iloc[::-1].to_parquet(tmp_path / "table.parquet")
    file = study.save(tmp_path / "study")
    assert tomllib.loads(file.read_text())["train"]["path"].startswith("train-")
    same(study, ic.Study.load(file))


def test_a_part_of_torchvision_and_one_that_was_changed(tmp_path):
    base = fashion(tmp_path, True)
    study = study_of(ic.data.wrap(Subset(base, [5, 3, 9, 0]), "train"), ic.data.wrap(fashion(tmp_path, False), "test"))
    file = study.save(tmp_path / "study")
    raw = tomllib.loads(file.read_text())
    assert (raw["train"]["path"], raw["train"]["part"], raw["test"]["part"]) == (str(tmp_path), True, False)
    same(study, ic.Study.load(file))
    base.data = base.data.clone()
    base.data[3, 0, 0] ^= 1
    changed = study_of(ic.data.wrap(base, "train"))
    file = changed.save(tmp_path / "changed")
    assert tomllib.loads(file.read_text())["train"]["format"] == "pixels"
    same(changed, ic.Study.load(file))
    flip(tmp_path / "FashionMNIST/raw/train-images-idx3-ubyte", -5)
    with pytest.raises(InvalidInput, match=r"the FashionMNIST in .* is not the one that the study was saved with"):
        ic.Study.load(tmp_path / "study")
    shutil.rmtree(tmp_path / "FashionMNIST")
    with pytest.raises(InvalidInput, match=r"does not hold torchvision's FashionMNIST"):
        ic.Study.load(tmp_path / "study")


def plus_one(image):
    return torch.from_numpy(np.asarray(image).astype(np.float32)).permute(2, 0, 1) / 255 + 1


def test_a_transform_of_ones_own_is_written_as_tensors_and_said(tmp_path):
    study = study_of(image_folder(folder(tmp_path / "set"), transform=plus_one, name="train"))
    with pytest.warns(UserWarning, match="transform of the train set cannot be written.*written as tensors"):
        study.save(tmp_path / "study")
    after = ic.Study.load(tmp_path / "study")
    assert after.fingerprint == study.fingerprint
    assert after.train.filepaths == study.train.filepaths
    assert torch.equal(after.train.batch(range(12))[0], study.train.batch(range(12))[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after.save(tmp_path / "again")


def test_relabels_of_a_loaded_study_name_file_and_row(tmp_path):
    root = folder(tmp_path / "set")
    for data, path in (
        (image_folder(root, transform=INPUTS), "class 0/3.png"),
        (parquet_images(tmp_path / "t.parquet", transform=INPUTS), "t.parquet#3")
        if pd.DataFrame(
            {"image": [f.read_bytes() for f in sorted(root.rglob("*.png"))], "label": [i // 4 for i in range(12)]}
        ).to_parquet(tmp_path / "t.parquet")
        is None
        else (None, ""),
    ):
        study_of(data).save(tmp_path / "study")
        loaded = ic.Study.load(tmp_path / "study")
        table = ic.applications.relabel(loaded, ic.estimators.Loss().fit(loaded))
        row = table[table["index"] == 3].iloc[0]
        assert (row["filepath"], row["sample_id"]) == (path, "train-000003")
        assert row["sha256"] == hashlib.sha256((root / "class 0/3.png").read_bytes()).hexdigest()
        written = ic.applications.write_relabels(table, tmp_path / "r.csv")
        fixed = ic.applications.apply_relabels(data, written, accept="flagged")
        assert len(fixed) == 12
        inputs = table.assign(sha256=[data.input_sha256(i) for i in table["index"]])  # as studies of tensors wrote it
        assert ic.applications.apply_relabels(data, inputs, accept="flagged").labels.tolist() == fixed.labels.tolist()
        wrong = table.assign(sha256=["0" * 64] * 12)
        with pytest.raises(InvalidInput, match="its SHA-256 differs"):
            ic.applications.apply_relabels(data, wrong)


def test_sample_ids_of_the_table_are_those_of_relabels(tmp_path):
    study = study_of(table_of(folder(tmp_path / "set"), "parquet", "content"))
    table = ic.applications.relabel(study, ic.estimators.Loss().fit(study))
    assert sorted(table["sample_id"]) == sorted(f"sample {i}" for i in range(12))
    assert len(ic.applications.apply_relabels(study.train, table)) == 12
    with pytest.raises(InvalidInput, match=r"sample \d+ has index \d+, where the dataset has sample"):
        ic.applications.apply_relabels(study.train, table.assign(sample_id=list(table["sample_id"])[::-1]))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "v2.Resize"', 'name = "v2.Lambda"', r"no transform 'v2\.Lambda'; possible are v2\.Resize"),
        ('name = "v2.Resize"', 'nam = "v2.Resize"', "no transform None"),
        ("size = [\n    5,", "size = [\n    500000,", "does not take the arguments.*at most 16,384"),
        ('rows = "', 'rows = "../', "which lies outside of its folder"),
        (
            'format = "folder"',
            'format = "folder"\nroots = "x"',
            "there is no key 'train.roots'; possible here: path, tra",
        ),
        ('path = "../', 'path = "a\\u0000', "NUL"),
    ],
)
def test_a_section_that_was_edited(tmp_path, old, new, message):
    study_of(image_folder(folder(tmp_path / "set"), transform=INPUTS)).save(tmp_path / "study")
    file = tmp_path / "study" / "study.toml"
    text = file.read_text().partition("\n")[2].replace(str(tmp_path / "set"), "../set")
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(InvalidInput, match=message) as caught:
        ic.Study.load(file)
    assert "\n" not in str(caught.value)


def test_saving_sweeps_what_the_former_study_had_beside(tmp_path):
    data = image_folder(folder(tmp_path / "set"), transform=INPUTS)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "train-of-mine.rows.parquet").write_bytes(b"mine")
    study_of(data).save(tmp_path / "study")
    study_of(data).save(tmp_path / "study", copy_data=True)
    expected = ["model.safetensors", "study.toml", "train-of-mine.rows.parquet"]
    expected += ["test.pictures.parquet", "train.pictures.parquet"]
    kinds = sorted(re.sub("-[0-9a-f]{12}", "", path.name) for path in (tmp_path / "study").iterdir())
    assert kinds == sorted(expected)
    study_of(data.with_labels([0] * 12)).save(tmp_path / "study")
    assert len(list((tmp_path / "study").glob("*.pictures.parquet"))) == 0
    assert len(list((tmp_path / "study").glob("*.rows.parquet"))) == 3
