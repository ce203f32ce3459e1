"""Loaders: tables, torchvision's own datasets, Hugging Face, labels of CIFAR-N; and files that are none."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import types

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset

import influence_core as ic
from influence_core._torchvision import torchvision
from influence_core.data import LabelledDataset, hf, image_folder, image_table, parquet_images, wrap
from influence_core.errors import InvalidInput
from tests.picture_files import encoded, folder, noise

torchvision()
from torchvision import datasets  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

INPUTS = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


@pytest.fixture
def root(tmp_path):
    return folder(tmp_path / "set")


def frame(root):
    files = sorted(path.relative_to(root.parent).as_posix() for path in root.rglob("*.png"))
    names = [file.split("/")[1] for file in files]
    return pd.DataFrame(
        {
            "file": files,
            "label": ["class 0", *names[1:]],
            "number": [0, *(int(name[-1]) for name in names[1:])],
            "truth": names,
            "id": [f"id-{i}" for i in range(len(files))],
            "part": ["train", "test", "spare"] * 4,
            "content": [(root.parent / file).read_bytes() for file in files],
        }
    ).sample(frac=1, random_state=1, ignore_index=True)


def write(table, path):
    if path.suffix in (".csv", ".tsv"):
        table.drop(columns="content").to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    elif path.suffix == ".feather":
        pa.feather.write_feather(pa.Table.from_pandas(table), path)
    elif path.suffix == ".arrow":
        whole = pa.Table.from_pandas(table)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, whole.schema) as writer:
            writer.write_table(whole)
    elif path.suffix == ".ipc":
        whole = pa.Table.from_pandas(table)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, whole.schema) as writer:
            writer.write_table(whole)
    else:
        table.to_parquet(path)
    return path


@pytest.mark.parametrize("label", ["label", "number"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "feather", "arrow", "ipc"])
def test_a_table_of_paths(root, kind, label):
    table = frame(root)
    path = write(table, root.parent / f"table.{kind}")
    names = ["class 0", "class 1", "class 2"]
    data = image_table(
        path, label=label, true_label="truth", sample_id="id", class_names=names, transform=INPUTS, name="train"
    )
    whole = image_folder(root, transform=INPUTS)
    places = [whole.filepaths.index(file.removeprefix("set/")) for file in table["file"]]
    assert torch.equal(data.batch(range(12))[0], whole.batch(places)[0])
    assert data.labels.tolist() == table["number"].tolist()
    assert torch.equal(data.true_labels, whole.labels[places])
    assert data.filepaths == table["file"].tolist()
    assert data.sample_ids == table["id"].tolist()
    assert [data.sample_sha256(i) for i in range(3)] == [whole.sample_sha256(p) for p in places[:3]]


@pytest.mark.parametrize("kind", ["parquet", "feather", "arrow"])
def test_a_table_of_bytes(root, kind):
    table = frame(root)
    path = write(table, root.parent / f"table.{kind}")
    data = parquet_images(path, image="content", transform=INPUTS)
    assert data.class_names == ["class 0", "class 1", "class 2"]
    assert data.labels.tolist() == table["number"].tolist()
    assert data.filepath(5) == f"table.{kind}#5"
    for i in range(12):
        assert torch.equal(data[i][0], INPUTS(Image.open(root.parent / table["file"][i]).convert("RGB")))
    assert data.sample_sha256(4) == image_table(path, transform=INPUTS).sample_sha256(4)


@pytest.mark.parametrize(("chosen", "parts"), [("train", ["train"]), (["test", "spare"], ["test", "spare"])])
def test_a_part_of_a_table(root, chosen, parts):
    table = frame(root)
    path = write(table, root.parent / "t.parquet")
    rows = [i for i, part in enumerate(table["part"]) if part in parts]
    data = parquet_images(path, image="content")
    some = image_table(path, file="content", split="part", splits=chosen)
    assert some.filepaths == [f"t.parquet#{row}" for row in rows]
    assert torch.equal(some.labels, data.labels[rows])
    assert torch.equal(some.batch(range(len(rows)))[0], data.batch(rows)[0])


def test_paths_from_another_folder(root, tmp_path):
    table = frame(root)
    (tmp_path / "lists").mkdir()
    path = write(table, tmp_path / "lists" / "t.csv")
    with pytest.raises(InvalidInput, match=r"row 0 of .*t\.csv names the picture .*which is not there.*root=FOLDER"):
        image_table(path)
    assert len(image_table(path, root=root.parent)) == 12
    table["file"] = [str(root.parent / file) for file in table["file"]]
    assert len(image_table(write(table, path))) == 12


def test_digits_that_are_no_numbers_stay_as_they_are_written(root):
    table = frame(root)
    kept = [f"{row:05}" for row in range(12)]
    for name, file in zip(kept, table["file"], strict=True):
        shutil.copy(root.parent / file, root.parent / name)
    table = table.assign(id=kept, part=["02", "2"] * 6, copy=kept, number=["7"] * 12)
    path = write(table, root.parent / "t.csv")
    data = image_table(path, file="copy", sample_id="id", split="part", splits="02")
    assert data.sample_ids == kept[::2]
    with pytest.raises(InvalidInput, match="says '3'; it says 02, 2"):
        image_table(path, split="part", splits="3")
    with pytest.raises(InvalidInput, match="sample 0 has label 7"):  # a label is a number
        image_table(path, label="number", class_names=["a"])


def test_names_of_classes_that_look_like_something_else(root):
    table = frame(root)
    table["label"] = ["NA", "null", "1e5"] * 4
    data = image_table(write(table, root.parent / "t.csv"))
    assert data.class_names == ["1e5", "NA", "null"]
    assert data.labels.tolist() == [1, 2, 0] * 4


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"label": "kind"}, "has no column 'kind'; its columns are file, label"),
        ({"label": ["x"] * 12}, {"class_names": ["a", "b"]}, "row 0 of .* has the label 'x', which is none of the cla"),
        ({}, {"split": "part"}, "split names the column and splits what to take"),
        ({}, {"split": "part", "splits": "val"}, "column 'part' of .* nowhere says 'val'; it says spare, test, train"),
        ({"id": ["same"] * 12}, {"sample_id": "id"}, "12 samples but 12 sample ids, 1 of them different"),
        ({"number": [9] * 12}, {"label": "number", "class_names": ["a"]}, "sample 0 has label 9"),
        ({"file": ["a\0b.png"] * 12}, {}, "it has a NUL character, which no file name can have"),
        ({"file": ["set"] * 12}, {}, "set has the name of a picture but is no plain file"),
        ({"file": ["../no.png"] * 12}, {}, r"no\.png, which is not there"),
    ],
)
def test_tables_that_do_not_fit(root, change, options, message):
    path = write(frame(root).assign(**change), root.parent / "t.parquet")
    with pytest.raises(InvalidInput, match=message):
        image_table(path, **options)


class Bomb:
    def __init__(self, proof):
        self.proof = str(proof)

    def __reduce__(self):
        return (os.system, (f"touch {self.proof}",))


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "feather", "arrow", "ipc", "png", "pt", "npy"])
@pytest.mark.parametrize("how", ["pickle", "torch", "empty", "cut", "folder", "pipe", "loop", "missing"])
def test_a_file_that_is_no_table_runs_nothing_and_is_one_sentence(root, tmp_path, kind, how):
    path = tmp_path / f"bad.{kind}"
    if how == "pickle":
        path.write_bytes(pickle.dumps({"file": Bomb(tmp_path / "proof")}))
    elif how == "torch":
        torch.save({"file": Bomb(tmp_path / "proof")}, path)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        whole = write(frame(root), tmp_path / "whole.parquet").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "loop":
        path.symlink_to(path)
    for read in (image_table, parquet_images, ic.data.cifar_n_labels):
        with pytest.raises(InvalidInput) as caught:
            read(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600
    assert not (tmp_path / "proof").exists()


def test_a_small_parquet_file_that_would_fill_the_memory(root):
    path = root.parent / "bomb.parquet"
    dense = pa.table({"image": pa.array([bytes(1 << 20)] * 1100, pa.binary()), "label": [0] * 1100})
    pa.parquet.write_table(dense, path, use_dictionary=False, compression="zstd")
    assert path.stat().st_size < 1 << 20
    with pytest.raises(InvalidInput, match=r"bomb\.parquet has [0-9,]+ bytes and says that it holds 1,100 rows"):
        parquet_images(path)


def test_a_picture_in_the_language_of_printers_is_not_run(root):
    (root / "class 0" / "9.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(InvalidInput, match=r"9\.png cannot be read as a picture \(it is of no kind"):
        image_folder(root)[4]


def test_pictures_that_are_none(root, tmp_path):
    loop = root / "class 0" / "loop.png"
    loop.symlink_to(loop)
    with pytest.raises(InvalidInput, match=r"loop\.png cannot be read as a picture|loop\.png, which is not there"):
        image_folder(root)[4]
    loop.unlink()
    (root / "class 0" / "9.png").write_bytes(pickle.dumps(Bomb(tmp_path / "proof")))
    with pytest.raises(InvalidInput, match=r"9\.png cannot be read as a picture \(it is of no kind"):
        image_folder(root)[4]
    assert not (tmp_path / "proof").exists()
    for read in (image_folder, image_table, ic.data.cifar_n_labels):
        with pytest.raises(InvalidInput, match="NUL"):
            read("a\0b")


def test_a_large_file_is_not_read(root, monkeypatch):
    from influence_core.data import opening

    monkeypatch.setattr(opening, "MOST_BYTES", 100)
    with pytest.raises(InvalidInput, match=r"0\.png cannot be read as a picture: it is larger than 100 bytes"):
        image_folder(root)[0]


def test_a_file_that_changes_under_us_is_named(root):
    data = image_folder(root, transform=INPUTS, name="train")
    data.sample_sha256(3)
    file = root / "class 0" / "3.png"
    whole, at = file.read_bytes(), file.stat()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))
    with pytest.raises(InvalidInput, match=r"3\.png is not the picture that was read before \(its SHA-256 differs\)"):
        data.batch([3])


# --- torchvision


class Made(datasets.CIFAR10):
    """CIFAR-10 from arrays, instead of the published files."""


def cifar(count=12, transform=INPUTS, kind=datasets.CIFAR10, **attributes):
    base = kind.__new__(kind)
    datasets.VisionDataset.__init__(base, "nowhere", transform=transform)
    base.data, base.train = noise(5, (count, 4, 4, 3)), True
    base.targets = [i % 10 for i in range(count)]
    base.classes = [f"c{k}" for k in range(10)]
    vars(base).update(attributes)
    return base


def test_cifar_as_it_is():
    base = cifar()
    data = wrap(base, "train")
    assert (data.name, data.class_names[3], data.labels.tolist()) == ("train", "c3", base.targets)
    assert torch.equal(data.batch(range(12))[0], torch.stack([base[i][0] for i in range(12)]))
    assert np.array_equal(np.asarray(data.picture(7)), base.data[7])
    assert data.fingerprint == LabelledDataset(cifar()).fingerprint
    changed = cifar()
    changed.data = changed.data.copy()
    changed.data[11, 3, 3, 2] ^= 1
    assert LabelledDataset(changed).fingerprint != data.fingerprint
    noisy = LabelledDataset(cifar(), labels=[9] * 12, true_labels=base.targets)
    assert noisy.labels.tolist() == [9] * 12
    assert noisy.corrupted.tolist() == [label != 9 for label in base.targets]


def test_grey_and_turned_arrays():
    grey = cifar(kind=datasets.MNIST, data=torch.from_numpy(noise(1, (12, 5, 4))), targets=torch.arange(12) % 10)
    data = wrap(grey, "train")
    assert torch.equal(data[3][0], grey[3][0])
    assert data[3][0].shape == (1, 5, 4)
    assert (data.picture(3).mode, data.labels.tolist()) == ("L", grey.targets.tolist())
    turned = cifar(kind=datasets.SVHN, data=noise(1, (12, 3, 4, 5)), labels=np.arange(12) % 10, split="train")
    data = wrap(turned, "train")
    assert torch.equal(data[3][0], turned[3][0])
    assert data.labels.tolist() == turned.labels.tolist()


@pytest.mark.parametrize("pick", [[7, 2, 2], np.array([7, 2]), torch.tensor([7, 2])])
def test_a_subset_of_a_dataset_of_torchvision(pick):
    base = cifar()
    data = wrap(Subset(base, pick), "train")
    ids = [int(i) for i in pick]
    assert data.labels.tolist() == [base.targets[i] for i in ids]
    assert torch.equal(data.batch(range(len(ids)))[0], torch.stack([base[i][0] for i in ids]))
    assert np.array_equal(np.asarray(data.picture(0)), base.data[7])
    assert data.class_names == base.classes


def test_transforms_and_targets_of_ones_own():
    base = cifar(transform=lambda image: INPUTS(image) + 1, target_transform=lambda y: 9 - y)
    data = wrap(base, "train")
    assert data.labels.tolist() == [9 - y for y in base.targets]
    assert torch.equal(data[2][0], base[2][0])
    assert np.array_equal(np.asarray(data.picture(2)), base.data[2])
    own = cifar(kind=Made)
    assert torch.equal(wrap(own, "train").batch([1])[0][0], own[1][0])
    with pytest.raises(InvalidInput, match=r"train sample 0 has a Image as input.*ToImage and ToDtype"):
        wrap(cifar(transform=None), "train").batch([0])
    with pytest.raises(InvalidInput, match="random step RandomCrop"):
        wrap(cifar(transform=v2.Compose([v2.RandomCrop(3), INPUTS])), "train")
    for kind in (Made, datasets.CIFAR10):
        flips = wrap(cifar(kind=kind, transform=INPUTS), "train").base
        assert len(flips) == 12
    random = LabelledDataset(cifar(kind=Made, transform=v2.RandomHorizontalFlip()), name="train")
    with pytest.raises(InvalidInput, match="the train set has the random step RandomHorizontalFlip"):
        random.check_repeatable()


def test_image_folder_of_torchvision(root):
    base = datasets.ImageFolder(str(root), INPUTS)
    data, ours = wrap(base, "train"), image_folder(root, transform=INPUTS)
    assert data.filepaths == ours.filepaths
    assert data.class_names == ours.class_names
    assert data.fingerprint == ours.fingerprint
    assert torch.equal(data.batch(range(12))[0], torch.stack([base[i][0] for i in range(12)]))
    by_hand = datasets.DatasetFolder(str(root), lambda path: np.zeros((2, 2, 3), np.uint8), (".png",), INPUTS)
    assert torch.equal(wrap(by_hand, "train")[1][0], torch.zeros(3, 2, 2))
    assert np.asarray(wrap(by_hand, "train").picture(1)).max() == 0


# --- Hugging Face


class Feature:
    """What ``datasets.Image`` and ``ClassLabel`` have that matters here."""

    def __init__(self, **attributes):
        vars(self).update(attributes)


class StandIn:
    """Behaves as a ``datasets.Dataset`` as far as it is used."""

    def __init__(self, rows, features):
        self.rows, self.features = rows, features

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, key):
        if isinstance(key, str):
            return [row[key] for row in self.rows]
        row = dict(self.rows[key])
        if self.features["image"].decode:
            row["image"] = Image.open(row["image"]["path"])
        return row

    def cast_column(self, name, feature):
        return StandIn(self.rows, self.features | {name: feature})


def stand_in(root, by_path=False):
    table = frame(root)
    rows = [
        {"image": {"bytes": None if by_path else c, "path": str(root.parent / f)}, "label": n, "truth": n}
        for c, f, n in zip(table["content"], table["file"], table["number"], strict=True)
    ]
    return StandIn(rows, {"image": Feature(decode=True), "label": Feature(names=["a", "b", "c"]), "truth": Feature()})


@pytest.mark.parametrize("by_path", [False, True])
def test_a_stand_in_for_a_dataset_of_hugging_face(root, by_path):
    base = stand_in(root, by_path)
    data = hf(base, true_label="truth", transform=INPUTS, name="train")
    table = frame(root)
    assert (data.class_names, data.labels.tolist()) == (["a", "b", "c"], table["number"].tolist())
    assert torch.equal(data.true_labels, data.labels)
    for i in range(12):
        assert torch.equal(data[i][0], INPUTS(Image.open(root.parent / table["file"][i]).convert("RGB")))
    assert base.features["image"].decode
    with pytest.raises(InvalidInput, match="no column 'pixels'; its columns are image, label, truth"):
        hf(base, image="pixels")
    with pytest.raises(InvalidInput, match=r"column 'label' is .*expected a datasets\.Image"):
        hf(base, image="label")
    with pytest.raises(InvalidInput, match=r"this is a dict. Choose a part of it: dataset\['train'\]"):
        hf({"train": base})


def test_a_dataset_of_hugging_face(root):
    package = pytest.importorskip("datasets")
    table = frame(root)
    features = package.Features(
        {"image": package.Image(), "label": package.ClassLabel(names=["a", "b", "c"]), "truth": package.Value("int64")}
    )
    columns = {
        "image": [{"bytes": c, "path": None} for c in table["content"]],
        "label": table["number"].tolist(),
        "truth": table["number"].tolist(),
    }
    base = package.Dataset.from_dict(columns, features=features).shuffle(seed=1)
    data = hf(base, true_label="truth", transform=INPUTS)
    assert data.labels.tolist() == list(base["label"])
    assert data.class_names == ["a", "b", "c"]
    for i in range(12):
        assert torch.equal(data[i][0], INPUTS(base[i]["image"].convert("RGB")))
    torch_format = hf(base.with_format("torch"), transform=INPUTS)
    assert torch.equal(torch_format.batch(range(12))[0], data.batch(range(12))[0])


# --- CIFAR-N


def human(**arrays):
    return {name: np.asarray(array) for name, array in arrays.items()}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int32])
def test_labels_of_cifar_n(tmp_path, zipped, dtype):
    path = tmp_path / "CIFAR-10_human.pt"
    labels = np.arange(20, dtype=dtype) % 10
    torch.save(human(clean_label=labels, worse_label=labels[::-1].copy()), path, _use_new_zipfile_serialization=zipped)
    found = ic.data.cifar_n_labels(path)
    assert found.dtype == torch.int64
    assert found.tolist() == labels[::-1].tolist()
    assert ic.data.cifar_n_labels(path, "clean_label").tolist() == labels.tolist()
    with pytest.raises(InvalidInput, match="no labels 'aggre_label'; it has clean_label, worse_label"):
        ic.data.cifar_n_labels(path, "aggre_label")


def test_labels_written_with_an_older_numpy(tmp_path, monkeypatch):
    path = tmp_path / "CIFAR-10_human.pt"
    old = types.ModuleType("numpy.core.multiarray")
    real = np._core.multiarray._reconstruct
    old._reconstruct = real
    labels = np.arange(20) % 10
    torch.save(human(worse_label=labels), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert "numpy.core.multiarray" not in sys.modules
    assert ic.data.cifar_n_labels(path).tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"worse_label": np.zeros(3)}, r"is float64 of shape \(3,\), expected one integer a picture"),
        ({"worse_label": np.zeros((3, 2), int)}, r"is int64 of shape \(3, 2\)"),
        ([np.zeros(3, int)], "holds a list, expected a dictionary"),
        ({"worse_label": np.array([{}, 2], dtype=object)}, "holds more than arrays of numbers"),
    ],
)
def test_label_files_of_another_kind(tmp_path, value, message):
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(InvalidInput, match=message):
        ic.data.cifar_n_labels(tmp_path / "a.pt")


def test_label_files_run_nothing(tmp_path):
    torch.save({"worse_label": Bomb(tmp_path / "proof")}, tmp_path / "a.pt")
    with pytest.raises(InvalidInput, match="could run somebody else's code, so it was not loaded"):
        ic.data.cifar_n_labels(tmp_path / "a.pt")
    np.save(tmp_path / "a.npy", {"worse_label": Bomb(tmp_path / "proof")}, allow_pickle=True)
    with pytest.raises(InvalidInput, match="a pickle in the guise of an array"):
        ic.data.cifar_n_labels(tmp_path / "a.npy")
    assert not (tmp_path / "proof").exists()


def test_bytes_in_memory():
    data = ic.data.EncodedImages([encoded(Image.fromarray(noise(1)))], torch.zeros(1).long(), (4, 4))
    assert data[0][0].shape == (3, 4, 4)
