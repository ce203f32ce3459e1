"""Transforms: inputs are those of torchvision's ``ImageFolder`` bit for bit, said in plain facts, never random."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

import influence_core as ic
from influence_core._torchvision import torchvision
from influence_core.data.preprocessing import Scaling, Transformed, preprocessing
from influence_core.data.transforms import ARGUMENTS, build_transform, classes, facts_of
from influence_core.errors import InvalidInput
from tests.picture_files import folder, kinds, noise

torchvision()
from torchvision import transforms as v1  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402
from torchvision.transforms import InterpolationMode, v2  # noqa: E402
from torchvision.transforms._presets import ImageClassification  # noqa: E402

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIPELINES = {
    "v2": v2.Compose([v2.Resize((8, 8)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]),
    "v2 after": v2.Compose([v2.PILToTensor(), v2.Resize(8), v2.CenterCrop(6), v2.ToDtype(torch.float32, scale=True)]),
    "v2 bicubic": v2.Compose([v2.Resize((5, 9), InterpolationMode.BICUBIC), v2.ToImage(), v2.ConvertImageDtype()]),
    "v2 float first": v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Resize((8, 8)), v2.Normalize(MEAN, STD)]
    ),
    "v2 half": v2.Compose([v2.CenterCrop(7), v2.ToImage(), v2.ToDtype(torch.float16, scale=True), v2.ToPureTensor()]),
    "v1": v1.Compose([v1.Resize(8), v1.CenterCrop(8), v1.ToTensor(), v1.Normalize(MEAN, STD)]),
    "v1 grey": v1.Compose([v1.Grayscale(), v1.Pad(2, 7), v1.CenterCrop((10, 4)), v1.ToTensor()]),
    "v1 nested": v1.Compose([v1.Compose([v1.CenterCrop(8), v1.PILToTensor()]), v1.ConvertImageDtype(torch.float64)]),
    "sequential": torch.nn.Sequential(v2.Resize((4, 4)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)),
    "in place": v2.Compose(
        [v2.CenterCrop(8), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD, inplace=True)]
    ),
    "preset": ImageClassification(crop_size=8, resize_size=12),
    "bytes": v2.Compose([v2.RGB(), v2.Identity(), v2.CenterCrop(4), v2.PILToTensor()]),
}


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    (root / "a").mkdir()
    for name, content in kinds().items():
        (root / "a" / name).write_bytes(content)
    return root


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("how", ["given", "from facts"])
def test_inputs_are_those_of_image_folder(all_kinds, name, how):
    transform = PIPELINES[name]
    expected = ImageFolder(str(all_kinds), transform, is_valid_file=lambda _: True)  # it leaves .gif out
    if how == "from facts":
        facts = json.loads(json.dumps(facts_of(transform)))
        transform = v2.Compose(build_transform(facts))
        assert facts_of(transform) == facts
    data = ic.data.image_folder(all_kinds, transform=transform)
    assert len(data) == len(expected) == len(kinds())
    for _ in range(2):  # decoded, and from the cache
        for i in range(len(data)):
            wanted = expected[i][0]
            assert data[i][0].dtype == wanted.dtype
            assert type(data[i][0]) is torch.Tensor
            assert torch.equal(data[i][0], wanted), data.filepath(i)
    same = [i for i in range(len(data)) if data[i][0].shape == data[0][0].shape]
    assert torch.equal(data.batch(same)[0], torch.stack([expected[i][0] for i in same]))


def test_pictures_for_people_are_the_originals(all_kinds):
    data = ic.data.image_folder(all_kinds, transform=PIPELINES["v2"])
    turned = data.filepaths.index("a/turned.jpg")
    assert data.picture(turned).size == (9, 7)
    assert data[turned][0].shape == (3, 8, 8)
    assert data.picture(data.filepaths.index("a/small.png")).size == (3, 2)
    assert np.array_equal(np.asarray(data.picture(data.filepaths.index("a/colour.png"))), noise(0))


def test_sixteen_bits_are_scaled_and_thirty_two_refused(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.array([[0, 257 * 100], [65535, 257]], dtype=np.uint16)).save(tmp_path / "a" / "0.png")
    transform = v2.Compose([v2.PILToTensor()])
    assert ic.data.image_folder(tmp_path, transform=transform)[0][0][1].tolist() == [[0, 100], [255, 1]]
    for number, kind in enumerate((np.int32, np.float32)):
        file = tmp_path / "a" / f"{number}.tif"
        Image.fromarray(np.ones((2, 2), dtype=kind)).save(file)
        with pytest.raises(InvalidInput, match=rf"{number}\.tif has 32 bits a pixel.*save it with 8 or 16"):
            ic.data.image_folder(tmp_path, transform=transform)[1]
        file.unlink()


def test_scaling_divides_as_numpy_does():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    got = Scaling(None, [0.4], [0.3]).finish(every)
    exact = (every.numpy().astype(np.float32) / np.float32(255) - np.float32(0.4)) / np.float32(0.3)
    assert np.array_equal(got.numpy(), exact)


RANDOM = [
    v2.RandomCrop(4), v2.RandomHorizontalFlip(), v2.RandomResizedCrop(4), v2.ColorJitter(), v2.RandAugment(),
    v2.AutoAugment(), v2.TrivialAugmentWide(), v2.AugMix(), v2.RandomErasing(), v2.GaussianBlur(3),
    v1.RandomRotation(5), v2.RandomApply([v2.ToImage()]),
]  # fmt: skip


@pytest.mark.parametrize("step", RANDOM, ids=lambda step: type(step).__name__)
def test_a_random_transform_is_refused_by_name(tmp_path, step):
    root = folder(tmp_path / "set")
    nested = v2.Compose([v2.Resize(6), v2.Compose([step]), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    with pytest.raises(InvalidInput, match=f"random step {type(step).__name__},.*transform of evaluation"):
        ic.data.image_folder(root, transform=nested)
    with pytest.raises(InvalidInput, match=f"the train set has the random step {type(step).__name__}"):
        ic.data.wrap(ImageFolder(str(root), nested), "train")


def test_a_random_step_that_only_we_do_not_know_is_found_by_two_reads(tmp_path):
    data = ic.data.image_folder(folder(tmp_path / "set"), transform=lambda image: torch.rand(3, 2, 2), name="train")
    with pytest.raises(InvalidInput, match="is not the same when it is read twice"):
        data.check_repeatable()


def plus_one(image):
    return torch.from_numpy(np.asarray(image).astype(np.float32)).permute(2, 0, 1) + 1


class Doubled(v2.Normalize):
    pass


@pytest.mark.parametrize(
    "transform",
    [
        plus_one,
        v2.Compose([v2.ToImage(), plus_one]),
        Doubled(MEAN, STD),
        v2.Lambda(plus_one),
        v2.ToDtype({Image.Image: torch.float32}),
        v2.Pad(2, fill={Image.Image: 3}),
    ],
)
def test_what_cannot_be_said_in_plain_facts(transform):
    assert facts_of(transform) is None


def test_a_function_of_ones_own_works(tmp_path):
    data = ic.data.image_folder(folder(tmp_path / "set"), transform=plus_one)
    assert torch.equal(data[1][0], plus_one(data.picture(1)))
    data.check_repeatable()
    assert data.sample_sha256(1) == data.input_sha256(1)


def test_a_transform_that_ends_in_a_picture_is_refused(tmp_path):
    root = folder(tmp_path / "set")
    for transform in (v2.Resize(4), lambda image: image):
        with pytest.raises(InvalidInput, match=r"gives a picture for image 0.*ToImage\(\) and ToDtype"):
            ic.data.image_folder(root, transform=transform).batch([0])
    with pytest.raises(InvalidInput, match="transform is a str, expected a function"):
        ic.data.image_folder(root, transform="resize")
    with pytest.raises(InvalidInput, match="give transform alone, or size, mean and std"):
        ic.data.image_folder(root, transform=v2.ToImage(), size=(4, 4))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"name": "v2.Lambda"}, r"no transform 'v2\.Lambda'; possible are v2\.Resize"),
        ({"name": "os.system"}, r"no transform 'os\.system'"),
        ({"name": 3}, "no transform 3"),
        ({}, "no transform None"),
        ({"name": "v2.Resize", "size": [4], "out": 3}, "has no argument 'out'; it has size, interpolation"),
        ({"name": "v2.Resize", "size": [10**9], "interpolation": "bilinear"}, "at most 16,384"),
        ({"name": "v1.Pad", "padding": 10**6, "fill": 0, "padding_mode": "constant"}, "at most 16,384"),
        ({"name": "v2.Resize", "size": "4", "interpolation": "bilinear"}, "size is '4'"),
        ({"name": "v2.Resize", "size": [4], "interpolation": "magic"}, "does not take the arguments.*magic"),
        ({"name": "v2.ToDtype", "dtype": "load", "scale": True}, "dtype is 'load'"),
        ({"name": "v2.Normalize", "mean": ["x"], "std": [1.0], "inplace": False}, "mean is .*expected numbers"),
    ],
)
def test_facts_of_others_build_nothing_else(step, message):
    with pytest.raises(InvalidInput, match=message):
        build_transform([step])


def test_every_known_class_is_that_of_its_name():
    kinds_ = classes()
    assert set(kinds_) == set(ARGUMENTS)
    assert all(kind.__name__ == name.split(".")[1] for name, kind in kinds_.items())
    assert len(set(kinds_.values())) == len(kinds_)


def test_identities_tell_apart_what_differs():
    ways = [
        Transformed(v2.Compose([v2.Resize(8), v2.ToImage()])),
        Transformed(v2.Compose([v2.Resize(9), v2.ToImage()])),
        Transformed(v2.Compose([v1.Resize(8), v2.ToImage()])),
        Transformed(v2.Compose([v2.ToImage(), v2.Resize(8)])),
        Transformed(v2.Compose([v2.Resize(8, antialias=False), v2.ToImage()])),
        Scaling(None, [0.5], [0.5]),
        Scaling((8, 8), [0.5], [0.5]),
        Scaling(None, [0.5], [0.25]),
    ]
    assert len({way.identity for way in ways}) == len(ways)
    again = pickle.loads(pickle.dumps(ways[0]))
    assert again.identity == ways[0].identity
    assert preprocessing(None, None, None, None).identity == Scaling(None, [0, 0, 0], [1, 1, 1]).identity
    assert preprocessing(ways[0].facts["transform"], None, None, None).identity == ways[0].identity
