"""In every place where a file is read: code in a pickle, a link to itself, a picture without bounds."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import influence_core as ic
from influence_core._torchvision import torchvision
from tests.picture_files import folder

torchvision()
from torchvision import datasets  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

INPUTS = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
MEBIBYTES = 400
"""What reading a bomb may add: far below the 7.5 GB that each of them says it has pixels for."""


class Bomb:
    def __init__(self, proof: Path) -> None:
        self.proof = str(proof)

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.proof}",))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of tensors with checkpoints, one of a folder, and everything that can be read, in one folder."""
    root = tmp_path_factory.mktemp("whole")
    pictures = ic.data.image_folder(folder(root / "set"), transform=INPUTS)
    torch.manual_seed(0)
    model = ic.models.small_cnn(channels=3, classes=3)
    tensors = torch.utils.data.TensorDataset(*pictures.batch(range(12)))
    trajectory = ic.training.fit(model, tensors, epochs=2, batch_size=4, checkpoints=2)
    ic.Study(model, tensors, tensors, trajectory=trajectory).save(root / "tensors")
    (root / "mynet.py").write_text(
        "import influence_core as ic\n\n\n@ic.models.register('hostile')\ndef net():\n"
        "    return ic.models.small_cnn(channels=3, classes=3)\n"
    )
    own = ic.models.load_plugin(root / "mynet.py").builders["hostile"]()
    study = ic.Study(own, pictures, pictures)
    study.save(root / "folder.toml", plugin=root / "mynet.py")
    fitted = ic.estimators.Loss().fit(study)
    fitted.save(root / "estimator.safetensors")
    fitted.mislabel_scores().save(root / "scores.safetensors")
    ic.applications.write_relabels(ic.applications.relabel(study, fitted), root / "relabel.csv")
    rows = "".join(f"{file.relative_to(root)},{file.parent.name}\n" for file in sorted((root / "set").rglob("*.png")))
    (root / "table.csv").write_text("file,label\n" + rows)
    torch.save({"state_dict": model.state_dict(), "epoch": 1}, root / "epoch_1.ckpt")
    torch.save(model.state_dict(), root / "weights.pt")
    torch.save({"worse_label": torch.zeros(3).long().numpy()}, root / "CIFAR-10_human.pt")
    return root


def part(root: Path, name: str) -> Path:
    (found,) = (root / "tensors").glob(f"{name}-*")
    return found


def folder_study(root: Path) -> ic.Study:
    return ic.Study.load(root / "folder.toml", trust=True)


PLACES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "study.toml": (lambda root: root / "tensors" / "study.toml", lambda root: ic.Study.load(root / "tensors")),
    **{
        f"{name} of a study": (
            lambda root, name=name: part(root, name),  # type: ignore[misc]
            lambda root: ic.Study.load(root / "tensors"),
        )
        for name in ("model", "train", "test", "trajectory")
    },
    "plugin": (lambda root: root / "mynet.py", folder_study),
    "picture of a study": (lambda root: root / "set" / "class 1" / "2.png", folder_study),
    "picture": (
        lambda root: root / "set" / "class 1" / "2.png",
        lambda root: ic.data.image_folder(root / "set", transform=INPUTS).batch(range(12)),
    ),
    "picture of torchvision's ImageFolder": (
        lambda root: root / "set" / "class 1" / "2.png",
        lambda root: ic.data.wrap(datasets.ImageFolder(str(root / "set"), INPUTS), "train").batch(range(12)),
    ),
    "table": (lambda root: root / "table.csv", lambda root: ic.data.image_table(root / "table.csv", transform=INPUTS)),
    "picture of a table": (
        lambda root: root / "set" / "class 1" / "2.png",
        lambda root: ic.data.image_table(root / "table.csv", transform=INPUTS).batch(range(12)),
    ),
    "weights": (
        lambda root: root / "weights.pt",
        lambda root: ic.models.load_weights(ic.models.small_cnn(channels=3, classes=3), root / "weights.pt"),
    ),
    "checkpoint": (
        lambda root: root / "epoch_1.ckpt",
        lambda root: ic.training.read_checkpoints([root / "epoch_1.ckpt"], learning_rates=0.1),
    ),
    "labels of CIFAR-N": (
        lambda root: root / "CIFAR-10_human.pt",
        lambda root: ic.data.cifar_n_labels(root / "CIFAR-10_human.pt"),
    ),
    "relabels": (lambda root: root / "relabel.csv", lambda root: ic.applications.read_relabels(root / "relabel.csv")),
    "estimator": (
        lambda root: root / "estimator.safetensors",
        lambda root: ic.estimators.Estimator.load(root / "estimator.safetensors", folder_study(root)),
    ),
    "scores": (lambda root: root / "scores.safetensors", lambda root: ic.Scores.load(root / "scores.safetensors")),
}


def as_pickle(path: Path, proof: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": torch.zeros(2), "bomb": Bomb(proof)}))


def as_torch(path: Path, proof: Path) -> None:
    torch.save({"weight": torch.zeros(2), "bomb": Bomb(proof)}, path)


def as_loop(path: Path, proof: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("how", [as_pickle, as_torch, as_loop])
@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_run_and_one_sentence_says_which_file(whole: Path, tmp_path: Path, place: str, how) -> None:
    root = tmp_path / "copy"
    shutil.copytree(whole, root, dirs_exist_ok=True)
    where, read = PLACES[place]
    path = where(root)
    read(root)  # whole
    how(path, tmp_path / "proof")
    with pytest.raises(ic.InfluenceError) as caught:
        read(root)
    said = str(caught.value)
    assert path.name in said
    assert "\n" not in said
    assert len(said) < 700
    assert not (tmp_path / "proof").exists()


def endless(side: int = 50_000) -> bytes:
    """A PNG that says it has ``side`` x ``side`` pixels in colour; a few kilobytes of zeros are there."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 22))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


READ_BOMBS = """
import resource, sys
from pathlib import Path
from tests.unit.test_hostile_files import INPUTS, PLACES, ic
import pyarrow as pa, pyarrow.parquet

root = Path(sys.argv[1])
PLACES["picture"][1](root)  # all that is imported on the way
content = (root / "bomb.png").read_bytes()
pa.parquet.write_table(pa.table({"image": [content] * 3, "label": [0, 1, 2]}), root / "bombs.parquet")
(root / "set" / "class 1" / "2.png").write_bytes(content)
reads = {place: read for place, (_, read) in PLACES.items() if "picture" in place}
reads["rows of a table"] = lambda root: ic.data.parquet_images(root / "bombs.parquet", transform=INPUTS).batch([1])
reads["for people"] = lambda root: ic.data.image_folder(root / "set", transform=INPUTS).picture(6)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for place, read in reads.items():
    try:
        read(root)
        print(place, "READ")
    except ic.InfluenceError as error:
        print(place, "REFUSED", "\\n" not in str(error), error)
print("MEBIBYTES", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_pictures_without_bounds_take_no_memory(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "bomb.png").write_bytes(endless())
    assert (tmp_path / "bomb.png").stat().st_size < 10_000
    command = [sys.executable, "-c", READ_BOMBS, str(tmp_path)]
    ran = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    *lines, last = ran.stdout.splitlines()
    assert len(lines) == 6, ran.stdout
    assert all(" REFUSED True " in line for line in lines), ran.stdout
    assert sum("pixels" in line for line in lines) == 5, ran.stdout  # the study says that it is another file
    assert float(last.split()[1]) < MEBIBYTES


def test_a_study_reads_no_weights_from_outside_of_its_folder(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(whole, root)
    weights, file = part(root, "model"), root / "tensors" / "study.toml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("checksum")]
    shutil.move(weights, root / weights.name)
    for path in (f"../{weights.name}", str(root / weights.name), f"sub/../../{weights.name}"):
        file.write_text("\n".join(lines).replace(weights.name, path))
        with pytest.raises(ic.InvalidInput, match="which lies outside of its folder: copy it in"):
            ic.Study.load(root / "tensors")


@pytest.mark.parametrize("width", [100, 100_000_000])
def test_a_model_that_is_far_larger_than_its_weights_takes_no_memory(whole: Path, tmp_path: Path, width: int) -> None:
    """The larger one takes 5 GB before anything else refuses it; of a somewhat wider one it is told what differs."""
    root = tmp_path / "copy"
    shutil.copytree(whole, root)
    file = root / "tensors" / "study.toml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("checksum")]
    at = lines.index("[model.arguments]")
    file.write_text("\n".join([*lines[: at + 1], f"width = {width}", *lines[at + 1 :]]))
    words = "has shape" if width == 100 else r"has [\d,]{18,} numbers, and the weights in .* are [\d,]{5,6}\. Build"
    with pytest.raises(ic.InvalidInput, match=words):
        ic.Study.load(file)
