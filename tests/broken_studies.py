"""Studies with one fault each: what the doctor has to find, once, and nothing else."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.data import LabelledDataset

SIDE, CLASSES = 12, 3
NAMES = ["left", "middle", "right"]


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Grey pictures 0..1 with a bright bar on the left, in the middle or on the right."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    inputs = 0.5 * torch.rand(count, 1, SIDE, SIDE, generator=draw)
    for place in range(CLASSES):
        inputs[labels == place, :, :, 4 * place : 4 * place + 4] += 0.45
    return inputs, labels


def dataset(count: int, seed: int, name: str, inputs: Tensor | None = None, labels: Tensor | None = None, **more: Any):
    own, given = pictures(count, seed)
    parts = TensorDataset(own if inputs is None else inputs, given if labels is None else labels)
    return LabelledDataset(parts, name=name, **more)


def sound() -> ic.Study:
    """A study without a fault, of pictures 0..1 normalised by mean 0.4 and deviation 0.25."""
    train, test = (normalised(dataset(n, seed, name)) for n, seed, name in ((120, 0, "train"), (60, 1, "test")))
    torch.manual_seed(0)
    model = ic.models.build("small_cnn", channels=1, classes=CLASSES, width=4)
    trajectory = ic.training.fit(model, train, epochs=25, batch_size=20, learning_rate=0.1)
    return ic.Study(model, train, test, trajectory=trajectory, name="sound")


def trained(data: LabelledDataset, classes: int) -> nn.Module:
    torch.manual_seed(0)
    model = ic.models.build("small_cnn", channels=1, classes=classes, width=4)
    ic.training.fit(model, data, epochs=25, batch_size=20, learning_rate=0.1)
    return model


def normalised(data: LabelledDataset, mean: float = 0.4, std: float = 0.25) -> LabelledDataset:
    inputs, labels = data.batch(range(len(data)))
    return LabelledDataset(TensorDataset((inputs - mean) / std, labels), name=data.name, class_names=NAMES)


def with_inputs(data: LabelledDataset, change: Callable[[Tensor], Tensor]) -> LabelledDataset:
    inputs, labels = data.batch(range(len(data)))
    return LabelledDataset(TensorDataset(change(inputs.clone()), labels), name=data.name, class_names=data.class_names)


def changed(model: nn.Module, change: Callable[[nn.Module], object]) -> nn.Module:
    model = copy.deepcopy(model)
    with torch.no_grad():
        change(model)
    return model


# --- faults that only numbers show


def leak(study: ic.Study) -> ic.Study:
    def put_in(inputs: Tensor) -> Tensor:
        inputs[7] = study.train[30][0]
        inputs[9] = 0.8 * study.train[31][0] + 0.1  # brightened anew
        return inputs

    return study.replaced(test=with_inputs(study.test, put_in))


def twice(study: ic.Study) -> ic.Study:
    def put_in(inputs: Tensor) -> Tensor:
        inputs[7] = inputs[8]  # whose label is another one
        return inputs

    return study.replaced(train=with_inputs(study.train, put_in), trajectory=study.trajectory)


def off_by_one(study: ic.Study) -> ic.Study:
    parts = [LabelledDataset(TensorDataset(*d.batch(range(len(d)))), name=d.name) for d in (study.train, study.test)]
    model = trained(parts[0], CLASSES + 1)
    return ic.Study(model, *[d.with_labels(d.labels + 1) for d in parts], name="off by one")


def other_order(study: ic.Study) -> ic.Study:
    order = torch.tensor([2, 0, 1])
    return study.replaced(
        train=study.train.with_labels(order[study.train.labels]), test=study.test.with_labels(order[study.test.labels])
    )


def wrong_normalisation(study: ic.Study) -> ic.Study:
    raw = [with_inputs(d, lambda x: 255 * (0.25 * x + 0.4)) for d in (study.train, study.test)]
    return study.replaced(train=raw[0], test=raw[1])


def dead_layer(study: ic.Study) -> ic.Study:
    def kill(model: nn.Module) -> None:
        norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        norm.weight.zero_()
        norm.bias.fill_(-1.0)

    return study.replaced(model=changed(study.model, kill), trajectory=None)


def other_trajectory(study: ic.Study) -> ic.Study:
    return study.replaced(
        model=changed(study.model, lambda m: [p.mul_(1.02) for p in m.parameters()]), trajectory=study.trajectory
    )


def strong_decay(study: ic.Study) -> ic.Study:
    return study.replaced(weight_decay=1.0)


def unused_layer(study: ic.Study) -> ic.Study:
    class Spare(nn.Sequential):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__(inner)
            self.spare = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self[0](x)

    return study.replaced(model=Spare(study.model), trajectory=None)


def no_statistics(study: ic.Study) -> ic.Study:
    def forget(model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()

    return study.replaced(model=changed(study.model, forget), trajectory=None)


def uneven(study: ic.Study) -> ic.Study:
    labels = study.train.labels
    rare = ((labels != 2) | (torch.arange(len(labels)) < 7)).nonzero().flatten()
    train = study.train.subset(rare)
    return study.replaced(train=train, trajectory=None, model=trained(train, CLASSES))


def not_a_number(study: ic.Study) -> ic.Study:
    def spoil(inputs: Tensor) -> Tensor:
        inputs[3, 0, 0, 0] = torch.nan
        return inputs

    return study.replaced(test=with_inputs(study.test, spoil))


FAULTS: dict[str, tuple[Callable[[ic.Study], ic.Study], str, int]] = {
    "leak": (leak, "test-in-training", 3),
    "off by one": (off_by_one, "labels-shifted", 4),
    "wrong normalisation": (wrong_normalisation, "normalisation", 4),
    "dead layer": (dead_layer, "layer-dead", 4),
    "another training's recipe": (strong_decay, "recipe-does-not-fit", 3),
    "another training's checkpoints": (other_trajectory, "recipe-does-not-fit", 3),
    "one picture with two labels": (twice, "training-twice", 3),
    "another order of classes": (other_order, "classes-in-another-order", 4),
    "a layer that nothing uses": (unused_layer, "parameters-without-gradient", 3),
    "fresh batch normalisation": (no_statistics, "batchnorm-without-statistics", 4),
    "a rare class": (uneven, "classes-uneven", 0),
    "a value that is no number": (not_a_number, "inputs-not-finite", 4),
}
"""What is wrong -> how to break a sound study, the finding, the exit code."""


# --- faults that keep a saved study from opening


def no_file(folder: Path) -> None:
    (folder / "study.toml").unlink()


def no_toml(folder: Path) -> None:
    (folder / "study.toml").write_text("version = [")


def unknown_key(folder: Path) -> None:
    _edit(folder, "name =", "nmae =")


def newer(folder: Path) -> None:
    _edit(folder, "version = 3", "version = 9")


def cut_off(folder: Path) -> None:
    file = next(folder.glob("model-*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])


def no_weights(folder: Path) -> None:
    next(folder.glob("model-*.safetensors")).unlink()


def no_data(folder: Path) -> None:
    next(folder.glob("train-*.safetensors")).unlink()


def flipped_bit(folder: Path) -> None:
    file = next(folder.glob("test-*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(bytes(content))


def another_architecture(folder: Path) -> None:
    _edit(folder, "width = 4", "width = 6")


def no_such_architecture(folder: Path) -> None:
    _edit(folder, 'architecture = "small_cnn"', 'architecture = "smal_cnn"')


REFUSALS = {
    "no study.toml": no_file,
    "no TOML": no_toml,
    "an unknown key": unknown_key,
    "another version": newer,
    "weights cut off": cut_off,
    "no weights": no_weights,
    "no training data": no_data,
    "one bit flipped": flipped_bit,
    "another width": another_architecture,
    "an unknown architecture": no_such_architecture,
}
"""What is wrong -> how to break a saved study."""


def _edit(folder: Path, old: str, new: str) -> None:
    file = folder / "study.toml"
    text = file.read_text()
    assert old in text
    lines = [line for line in text.replace(old, new).splitlines() if not line.startswith(("checksum", "fingerprint"))]
    file.write_text("\n".join(lines) + "\n")


# --- pictures on the disk


def bars(root: Path, each: int = 40, seed: int = 0, wrong: float = 0.0) -> dict[str, str]:
    """``root/CLASS/i.png``: colour pictures of 16 pixels with a faint bar, some in the folder of another class.

    Returns:
        File below ``root`` -> the class that is right.
    """
    draw = np.random.default_rng(seed)
    truth: dict[str, str] = {}
    for number in range(each * CLASSES):
        right = number % CLASSES
        given = (right + int(draw.integers(1, CLASSES))) % CLASSES if draw.random() < wrong else right
        pixels = draw.integers(0, 200, (16, 16, 3))
        place = 5 * right + int(draw.integers(0, 3))
        pixels[:, place : place + 3] += 55
        folder = root / NAMES[given]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03d}.png")
        truth[f"{NAMES[given]}/{number:03d}.png"] = NAMES[right]
    return truth


def session(root: Path) -> dict[str, str]:
    """``root/train`` with wrong labels and ``root/test`` without; file below ``train`` -> the class that is right."""
    bars(root / "test", each=80, seed=1)
    return bars(root / "train", each=80, seed=0, wrong=0.3)


def encoded_bars(count: int) -> tuple[list[bytes], list[int]]:
    """PNG files of colour noise with a bar, and their classes."""
    draw = np.random.default_rng(0)
    found = []
    for number in range(count):
        pixels = draw.integers(0, 120, (16, 16, 3))
        pixels[:, 5 * (number % CLASSES) : 5 * (number % CLASSES) + 5] += 110
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found, [number % CLASSES for number in range(count)]
