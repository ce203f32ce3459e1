from __future__ import annotations

import copy
import io
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

import influence_core as ic
from influence_core.data import LabelledDataset, image_folder, parquet_images, symmetric_noise, wrap
from influence_core.errors import InvalidInput, NotSupported
from tests.helpers import images


class Listed(Dataset):
    """A map-style dataset that counts how often a sample is loaded."""

    def __init__(self, all_inputs, all_labels, **attributes):
        self.inputs_, self.labels_, self.loaded = all_inputs, all_labels, 0
        vars(self).update(attributes)

    def __len__(self):
        return len(self.inputs_)

    def __getitem__(self, index):
        self.loaded += 1
        return self.inputs_[index], self.labels_[index]


X = torch.rand(4, 1, 3, 3)


def test_labels_of_a_tensor_dataset():
    data = LabelledDataset(TensorDataset(X, torch.tensor([2, 0, 1, 2], dtype=torch.int32)))
    assert data.labels.tolist() == [2, 0, 1, 2]
    assert data.labels.dtype == torch.int64
    inputs, labels = data.batch([3, 1])
    assert torch.equal(inputs, X[[3, 1]])
    assert labels.tolist() == [2, 0]
    assert data[2][1] == 1


@pytest.mark.parametrize("attribute", ["targets", "labels"])
def test_labels_are_read_without_loading_inputs(attribute):
    base = Listed(X, [9, 9, 9, 9], **{attribute: [0, 1, 2, 0]})
    assert LabelledDataset(base).labels.tolist() == [0, 1, 2, 0]
    assert base.loaded == 0


def test_a_target_transform_is_not_passed_over():
    base = Listed(X, [1, 0, 1, 0], targets=[0, 1, 0, 1], target_transform=lambda y: 1 - y)
    assert LabelledDataset(base).labels.tolist() == [1, 0, 1, 0]


def test_labels_are_collected_where_no_attribute_has_them():
    assert LabelledDataset(Listed(X, [np.int64(1), torch.tensor(2), 0, 1])).labels.tolist() == [1, 2, 0, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 2]), r"shape \(3,\), expected one integer for each of 4"),
        (torch.zeros(4, 3, dtype=torch.int64), r"shape \(4, 3\)"),
        (torch.tensor([0.0, 1, 2, 0]), "float32, expected integers"),
        (torch.tensor([True, False, True, True]), "torch.bool, expected integers"),
        (["cat", "dog", "cat", "dog"], "no numbers.*class_names"),
        ([0, 1, None, 0], "no numbers"),
    ],
)
def test_labels_of_the_wrong_kind(labels, message):
    with pytest.raises(InvalidInput, match=message):
        LabelledDataset(TensorDataset(X, torch.zeros(4)), labels=labels, name="train")
    with pytest.raises(InvalidInput, match=message):
        LabelledDataset(TensorDataset(X, torch.zeros(4, dtype=torch.int64)), true_labels=labels, name="train")


@pytest.mark.parametrize("label", [1.0, "cat", None, torch.tensor(2.0)])
def test_a_label_of_the_wrong_kind_is_named(label):
    with pytest.raises(InvalidInput, match=r"train sample 2 is .*integer as label"):
        LabelledDataset(Listed(X, [0, 1, label, 0]), name="train")


@pytest.mark.parametrize(("label", "which"), [(5, "sample 2 has label 5"), (-1, "sample 2 has label -1")])
@pytest.mark.parametrize("kind", ["labels", "true_labels"])
def test_a_label_out_of_range_is_named(label, which, kind):
    right, wrong = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, label, 0])
    both = {"labels": right, "true_labels": right} | {kind: wrong}
    with pytest.raises(InvalidInput, match=f"train {which}.*between 0 and 1.*1 of 4"):
        LabelledDataset(TensorDataset(X, right), class_names=["a", "b"], name="train", **both)


def test_other_refusals():
    with pytest.raises(InvalidInput, match="map-style"):
        LabelledDataset(iter([1, 2]), name="train")
    with pytest.raises(InvalidInput, match="no second tensor"):
        LabelledDataset(TensorDataset(X))
    with pytest.raises(InvalidInput, match="4 samples but 1 file paths"):
        LabelledDataset(TensorDataset(X, torch.zeros(4).long()), filepaths=["a.png"])
    with pytest.raises(InvalidInput, match="two classes called 'crane'"):
        LabelledDataset(TensorDataset(X, torch.zeros(4).long()), class_names=["crane", "dog", "crane"])
    with pytest.raises(InvalidInput, match="sample 0 has a ndarray as input, a tensor is needed"):
        LabelledDataset(Listed([np.zeros((1, 3, 3))], [0])).batch([0])


def test_images_of_two_sizes_are_named():
    data = LabelledDataset(
        Listed([torch.rand(1, 3, 3), torch.rand(1, 3, 3), torch.rand(1, 5, 3)], [0, 1, 0]), name="train"
    )
    with pytest.raises(InvalidInput, match=r"train sample 2 has shape \(1, 5, 3\), sample 0 has \(1, 3, 3\)"):
        data.batch([0, 1, 2])


def named() -> LabelledDataset:
    return LabelledDataset(
        TensorDataset(X, torch.tensor([0, 1, 1, 0])),
        true_labels=[0, 1, 0, 1],
        class_names=["cat", "dog"],
        pictures=lambda i: np.full((2, 2), 10 * i, np.uint8),
        filepaths=[f"{i}.png" for i in range(4)],
        name="train",
    )


def test_with_labels_keeps_everything_else():
    before = named()
    after = before.with_labels([1, 1, 1, 1])
    assert after.labels.tolist() == [1, 1, 1, 1]
    assert before.labels.tolist() == [0, 1, 1, 0]
    assert after.true_labels.tolist() == [0, 1, 0, 1]
    assert after.corrupted.tolist() == [True, False, True, False]
    assert (after.class_names, after.name, after.filepath(3)) == (["cat", "dog"], "train", "3.png")
    assert np.asarray(after.picture(2)).max() == 20
    assert torch.equal(after.batch([2])[0], X[[2]])
    assert after[2][1] == 1


@pytest.mark.parametrize("ids", [[3, 1], torch.tensor([3, 1]), np.array([3, 1])])
def test_subset_takes_everything_along(ids):
    part = named().with_labels([0, 1, 1, 1]).subset(ids)
    assert part.labels.tolist() == [1, 1]
    assert part.true_labels.tolist() == [1, 1]
    assert [part.filepath(i) for i in range(2)] == ["3.png", "1.png"]
    assert [np.asarray(part.picture(i)).max() for i in range(2)] == [30, 10]
    assert torch.equal(part.batch([0, 1])[0], X[[3, 1]])
    assert torch.equal(part[0][0], X[3])
    again = part.subset([1])
    assert torch.equal(again.batch([0])[0], X[[1]])
    assert (np.asarray(again.picture(0)).max(), again.filepath(0)) == (10, "1.png")


def test_subset_by_mask_and_refusals():
    assert named().subset(torch.tensor([False, True, False, True])).filepaths == ["1.png", "3.png"]
    with pytest.raises(InvalidInput, match="mask of 2 values for the 4 samples"):
        named().subset(torch.tensor([True, False]))
    with pytest.raises(InvalidInput, match="no train sample 4; ids go from 0 to 3"):
        named().subset([0, 4])


def test_what_is_left_without_some():
    assert named().without([2, 0]).filepaths == ["1.png", "3.png"]
    assert named().without(torch.tensor([True, False, False, True])).filepaths == ["1.png", "2.png"]
    assert len(named().without([])) == 4
    with pytest.raises(InvalidInput, match="no train sample -1"):
        named().without([-1])


def test_wrap_never_changes_what_it_is_given():
    data = images(name="data", class_names=None)
    first, second = wrap(data, "train", ["a", "b", "c"]), wrap(data, "test")
    assert (first.name, second.name, data.name) == ("train", "test", "data")
    assert (first.class_names, data.class_names) == (["a", "b", "c"], None)
    assert wrap(first, "test") is first
    base = TensorDataset(X, torch.tensor([0, 1, 1, 0]))
    base.classes = ["cat", "dog"]
    assert wrap(base, "train").class_names == ["cat", "dog"]


def picture_of(tensor):
    return LabelledDataset(TensorDataset(tensor[None], torch.zeros(1).long())).picture(0)


def test_picture_of_a_grey_input():
    image = picture_of(torch.tensor([[[0.0, 1.0], [0.5, 0.2]]]))
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[0, 255], [128, 51]]


def test_picture_of_a_colour_input_keeps_channels_apart():
    tensor = torch.zeros(3, 2, 4)
    tensor[0, 0, 3], tensor[2, 1, 0] = 1.0, 0.6
    image = picture_of(tensor)
    assert (image.mode, image.size) == ("RGB", (4, 2))
    assert (image.getpixel((3, 0)), image.getpixel((0, 1))) == ((255, 0, 0), (0, 0, 153))


def test_picture_of_a_normalised_input_is_stretched():
    assert np.asarray(picture_of(torch.tensor([[[-2.0, 2.0], [0.0, -2.0]]]))).tolist() == [[0, 255], [128, 0]]
    assert np.asarray(picture_of(torch.full((1, 2, 2), -3.0))).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("shape", [(7,), (2, 4, 4), (1, 3, 4, 4)])
def test_no_image_no_picture(shape):
    with pytest.raises(NotSupported, match=r"no image.*pictures=function"):
        picture_of(torch.zeros(shape))


def test_given_pictures_are_converted():
    data = LabelledDataset(TensorDataset(X, torch.zeros(4).long()), pictures=lambda i: Image.new("CMYK", (5, 6)))
    assert (data.picture(0).mode, data.picture(0).size) == ("RGB", (5, 6))


def test_fingerprint_tells_apart_what_differs():
    inputs, labels = torch.rand(6, 1, 3, 3), torch.arange(6) % 2
    pixel = inputs.clone()
    pixel[4, 0, 2, 1] += 1e-6
    flipped = labels.clone()
    flipped[5] = 0
    order = torch.tensor([1, 0, 2, 3, 4, 5])
    variants = [
        (inputs, labels),
        (pixel, labels),
        (inputs, flipped),
        (inputs[order], labels[order]),
        (inputs[:5], labels[:5]),
        (inputs.double(), labels),
        (inputs.reshape(6, 1, 1, 9), labels),
    ]
    prints = [LabelledDataset(TensorDataset(*parts)).fingerprint for parts in variants]
    assert len(set(prints)) == len(variants)
    assert LabelledDataset(TensorDataset(inputs.clone(), labels.clone())).fingerprint == prints[0]
    assert LabelledDataset(Listed(list(inputs), labels.tolist())).fingerprint == prints[0]


def test_sample_sha256_is_that_of_the_input_alone():
    data = named()
    assert data.sample_sha256(1) == data.with_labels([0, 0, 0, 0]).sample_sha256(1)
    assert len({data.sample_sha256(i) for i in range(4)}) == 4
    assert data.subset([2]).sample_sha256(0) == data.sample_sha256(2)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.37, 1.0])
def test_noise_changes_exactly_the_share_it_says(rate):
    labels = torch.arange(300) % 7
    noisy = symmetric_noise(labels, rate, 7, seed=3)
    assert int((noisy != labels).sum()) == round(rate * 300)
    assert torch.equal(labels, torch.arange(300) % 7)
    assert set(noisy.tolist()) <= set(range(7))
    assert torch.equal(noisy, symmetric_noise(labels, rate, 7, seed=3))


def test_noise_reaches_every_other_class_alike():
    noisy = symmetric_noise(torch.zeros(6000, dtype=torch.int64), 1.0, 4)
    shares = torch.bincount(noisy, minlength=4) / 6000
    assert shares[0] == 0
    assert torch.allclose(shares[1:], torch.full((3,), 1 / 3), atol=0.03)  # 5 standard deviations of 6000 draws


@pytest.mark.parametrize(("rate", "classes"), [(-0.1, 3), (1.5, 3), (0.1, 1), (float("nan"), 3)])
def test_noise_refuses(rate, classes):
    with pytest.raises(InvalidInput):
        symmetric_noise(torch.zeros(4, dtype=torch.int64), rate, classes)


def test_digits_splits_are_disjoint_and_cover_all_scans():
    from sklearn.datasets import load_digits

    splits = ic.data.digits(noise=0.2, seed=5)
    rows = torch.cat([s.batch(range(len(s)))[0].flatten(1) for s in splits])
    true = torch.cat([s.true_labels for s in splits])
    scans = load_digits()
    expected = np.column_stack([scans.data / 16, scans.target])
    got = np.column_stack([rows.numpy(), true.numpy()])
    assert np.array_equal(got[np.lexsort(got.T)], expected[np.lexsort(expected.T)].astype(np.float32))
    assert [len(s) for s in splits] == [1000, 300, 497]
    assert [int(s.corrupted.sum()) for s in splits] == [200, 0, 0]
    assert not torch.equal(splits.train.true_labels, ic.data.digits(0.2, seed=6).train.true_labels)


def grey(path, value, size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)


@pytest.fixture
def folder(tmp_path):
    for kind, value in (("cat", 0), ("dog", 255)):
        for i in range(2):
            grey(tmp_path / "set" / kind / f"{i}.png", value)
    grey(tmp_path / "set" / "dog" / "deep" / "2.PNG", 51)
    (tmp_path / "set" / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "set" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "set" / "cat" / "._0.png").write_bytes(b"what macOS leaves behind")
    return tmp_path / "set"


def test_image_folder(folder):
    data = image_folder(folder, mean=[0.5], std=[0.25])
    assert data.class_names == ["cat", "dog"]
    assert data.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.filepaths == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png", "dog/deep/2.PNG"]
    assert data.true_labels is None
    inputs, _ = data.batch([0, 4])
    assert inputs.shape == (2, 1, 4, 4)
    assert torch.allclose(inputs[:, 0, 0, 0], torch.tensor([-2.0, (0.2 - 0.5) / 0.25]))
    assert np.asarray(data.picture(4)).max() == 51


def test_image_folder_resizes_and_colours(folder):
    grey(folder / "dog" / "3.png", 255, size=(9, 3))
    data = image_folder(folder, size=(5, 7), class_names=["dog", "cat", "cow"])
    assert data.batch([0, 1])[0].shape == (2, 3, 5, 7)
    assert data.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert data.picture(2).size == (9, 3)
    mixed = image_folder(folder)
    with pytest.raises(InvalidInput, match=r"has shape \(3, 3, 9\)"):
        mixed.batch(range(len(mixed)))


def test_sixteen_bits_a_pixel_are_not_cut_off(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.array([[0, 257 * 100], [65535, 257]], dtype=np.uint16)).save(tmp_path / "a" / "0.png")
    data = image_folder(tmp_path, mean=[0.0], std=[1.0])
    assert (data.batch([0])[0] * 255).round().tolist() == [[[[0, 100], [255, 1]]]]
    assert np.asarray(data.picture(0)).tolist() == [[0, 100], [255, 1]]


def test_image_folder_refuses(folder, tmp_path):
    with pytest.raises(InvalidInput, match=r"there is no folder .*nothing"):
        image_folder(tmp_path / "nothing")
    (tmp_path / "flat").mkdir()
    with pytest.raises(InvalidInput, match="flat has no sub-folders"):
        image_folder(tmp_path / "flat")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(InvalidInput, match="holds no picture"):
        image_folder(tmp_path / "empty")
    with pytest.raises(InvalidInput, match="folder 'dog', which is none of the classes cat, cow"):
        image_folder(folder, class_names=["cat", "cow"])
    with pytest.raises(InvalidInput, match=r"size=\(0, 4\)"):
        image_folder(folder, size=(0, 4))
    with pytest.raises(InvalidInput, match="no std of 0"):
        image_folder(folder, mean=[0.5], std=[0.0])
    (folder / "cat" / "1.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(InvalidInput, match=r"cat/1\.png cannot be read as a picture"):
        image_folder(folder).batch([0, 1])


@pytest.mark.parametrize("cut", [20, 45])
def test_a_cut_off_picture_is_named(folder, cut):
    whole = (folder / "dog" / "0.png").read_bytes()
    (folder / "dog" / "0.png").write_bytes(whole[:cut])
    with pytest.raises(InvalidInput, match=r"dog/0\.png cannot be read"):
        image_folder(folder).picture(2)


def encoded(value):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def parquet(path, **columns):
    pd.DataFrame(columns).to_parquet(path)
    return path


def test_parquet_images(tmp_path):
    path = parquet(
        tmp_path / "d.parquet", image=[{"bytes": encoded(v), "path": "x"} for v in (0, 255)], fine=[1, 0], truth=[1, 1]
    )
    data = parquet_images(path, label="fine", true_label="truth", class_names=["cat", "dog"])
    assert data.labels.tolist() == [1, 0]
    assert data.corrupted.tolist() == [False, True]
    assert data.batch([1])[0][0, :, 0, 0].tolist() == [1.0, 0.0, 0.0]
    assert data.picture(0).size == (3, 2)
    plain = parquet_images(parquet(tmp_path / "p.parquet", image=[encoded(9)], label=[0]))
    assert plain.batch([0])[0].shape == (1, 3, 2, 3)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"x"], "y": [0]}, "no column 'label'; its columns are image, y"),
        ({"image": ["a.png"], "label": [0]}, r"row 0 of .*d\.parquet names the picture .*a\.png, which is not there"),
        ({"image": [7], "label": [0]}, "column 'image' .* is int64; the bytes of picture files, or their paths"),
        ({"image": [b"x", None], "label": [0, 1]}, "has NoneType in row 1"),
        ({"image": [b"x", b"y"], "label": ["cat", None]}, "column 'label' .* 1 empty cells, expected an integer or"),
        ({"image": [b"x", b"y"], "label": pd.array([0, None], dtype="Int64")}, "1 empty cells"),
        ({"image": [b"x"], "label": [0.5]}, "column 'label' .* is double"),
    ],
)
def test_parquet_refuses(tmp_path, columns, message):
    with pytest.raises(InvalidInput, match=message):
        parquet_images(parquet(tmp_path / "d.parquet", **columns))


def test_parquet_files_that_are_none(tmp_path):
    with pytest.raises(InvalidInput, match="there is no file"):
        parquet_images(tmp_path / "none.parquet")
    whole = parquet(tmp_path / "d.parquet", image=[encoded(1)], label=[0]).read_bytes()
    (tmp_path / "d.parquet").write_bytes(whole[:-10])
    with pytest.raises(InvalidInput, match="no complete Parquet file"):
        parquet_images(tmp_path / "d.parquet")
    broken = parquet_images(parquet(tmp_path / "b.parquet", image=[encoded(1), b"no picture"], label=[0, 0]))
    with pytest.raises(InvalidInput, match=r"b\.parquet#1 cannot be read as a picture"):
        broken.batch([0, 1])


class Sequential(Dataset):
    """A dataset with one position in one file, as many have: two threads at once get each other's samples."""

    def __init__(self, inputs):
        self.inputs_, self.position, self.labels = inputs, 0, [0] * len(inputs)

    def __len__(self):
        return len(self.inputs_)

    def __getitem__(self, index):
        self.position = index
        time.sleep(1e-4)
        return self.inputs_[self.position], 0


def in_threads(*works):
    """Results of functions called at the same time."""
    ready = threading.Barrier(len(works))

    def one(work):
        ready.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(one, work) for work in works]]


@pytest.mark.parametrize("how", ["one dataset", "two wrappers", "two subsets", "a copy", "a pickle"])
def test_a_dataset_of_others_is_read_by_one_thread_at_a_time(how):
    inputs = torch.rand(60, 1, 2, 2)
    base = Sequential(inputs)
    if how == "two subsets":
        made = [LabelledDataset(Subset(base, range(60))) for _ in range(4)]
    elif how == "one dataset":
        made = [LabelledDataset(base)] * 4
    else:
        whole = LabelledDataset(base)
        whole = {"a copy": copy.deepcopy, "a pickle": lambda d: pickle.loads(pickle.dumps(d))}.get(how, lambda d: d)(
            whole
        )
        made = [whole, *(LabelledDataset(whole.base) for _ in range(3))]
    read = in_threads(*(lambda d=d: d.batch(range(60))[0] for d in made), lambda: made[0].fingerprint)
    assert all(torch.equal(batch, inputs) for batch in read[:4])
    assert read[4] == LabelledDataset(TensorDataset(inputs, torch.zeros(60).long())).fingerprint


def test_nan_is_found_by_every_thread():
    inputs = torch.rand(2000, 1, 4, 4)
    inputs[[5, 1500], 0, 1, 1] = float("nan")
    for _ in range(5):
        data = LabelledDataset(TensorDataset(inputs, torch.zeros(2000).long()), name="train")

        def check(data=data):
            with pytest.raises(InvalidInput, match=r"train image 5 .*\(2 of 2000 images"):
                data.check_finite()
            return data.fingerprint

        assert len(set(in_threads(*[check] * 6))) == 1


def test_what_is_ours_is_read_at_once(folder):
    data = image_folder(folder, mean=[0.5], std=[0.25])
    alone = data.batch(range(5))[0]
    assert all(torch.equal(b, alone) for b in in_threads(*[lambda: data.batch(range(5))[0]] * 6))
    part = pickle.loads(pickle.dumps(data.subset([4, 0])))
    assert torch.equal(part.batch([0, 1])[0], alone[[4, 0]])
    assert np.asarray(part.picture(0)).max() == 51


def flipped(inputs, chance=0.5):
    class Flips(Listed):
        def __getitem__(self, index):
            item, label = super().__getitem__(index)
            return (item.flip(-1) if torch.rand(()) < chance else item), label

    return Flips(inputs, [0] * len(inputs))


@pytest.mark.parametrize("size", [20, 3000])
def test_a_random_augmentation_is_refused(size):
    torch.manual_seed(0)
    data = LabelledDataset(flipped(torch.rand(size, 1, 3, 3)), name="train")
    message = r"train sample \d+ is not the same when it is read twice: its transform is random.*of evaluation"
    with pytest.raises(InvalidInput, match=message):
        data.check_repeatable()
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 2))
    with pytest.raises(InvalidInput, match=message):
        ic.Study(model, data, LabelledDataset(TensorDataset(X, torch.zeros(4).long())))


@pytest.mark.parametrize(("size", "reads"), [(20, 40), (3000, 64)])
def test_looking_for_one_is_cheap(size, reads):
    base = Listed(torch.full((size, 1, 3, 3), float("nan")), [0] * size, labels=[0] * size)
    LabelledDataset(base).check_repeatable()
    assert base.loaded == reads
