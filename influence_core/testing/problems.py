"""Small studies whose answers are known: a convolutional network, and convex problems solved to the minimum."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from influence_core.data import LabelledDataset, symmetric_noise
from influence_core.losses import cross_entropy
from influence_core.study import Study
from influence_core.training import Checkpoint, Trajectory, fit, seeded

CLASSES, SIDE = 3, 4
PENALTY = 0.02
"""Weight decay of the convex problems."""


_device: ContextVar[str] = ContextVar("device", default="cpu")


@contextmanager
def on_device(device: str) -> Iterator[None]:
    """Within this the models of the studies lie on a device; their images stay where they are.

    Args:
        device: such as "cuda".

    Yields:
        Nothing.
    """
    before = _device.set(device)
    try:
        yield
    finally:
        _device.reset(before)


def _own(study: Study) -> Study:
    """A copy of a cached study, on the device that is asked for."""
    mine = copy.deepcopy(study)
    mine.model.to(_device.get())
    return mine


def images(size: int, seed: int, noise: float = 0.0, name: str = "data") -> LabelledDataset:
    """Grey images [1, 4, 4] in float64, one bright row per class, with noise on top.

    Args:
        size: how many.
        seed: of the images and of the label noise.
        noise: share of labels that are changed.
        name: of the dataset.

    Returns:
        The dataset, with true labels.
    """
    generator = torch.Generator().manual_seed(seed)
    true = torch.arange(size) % CLASSES
    inputs = torch.rand(size, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    inputs[torch.arange(size), 0, true] += 0.5
    given = symmetric_noise(true, noise, CLASSES, seed)
    return LabelledDataset(TensorDataset(inputs, given), true_labels=true, name=name)


def network_study(seed: int = 0) -> Study:
    """A small convolutional network with batch normalisation, trained for a moment on 20 % wrong labels.

    Args:
        seed: of data and weights.

    Returns:
        A study of its own: 24 training, 12 validation and 9 test images, 4 checkpoints, float64.
    """
    return _own(_network_study(seed))


def network() -> nn.Module:
    """A convolution with batch normalisation for ``images``, in float64, with weights drawn from torch's generator."""
    layers = (nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, CLASSES))
    return nn.Sequential(*layers).double()


@functools.cache
def _network_study(seed: int) -> Study:
    train = images(24, 10 * seed + 1, 0.2, "train")
    with seeded(seed, torch.device("cpu")):
        model = network()
    trajectory = fit(
        model, train, optimizer="sam", epochs=4, batch_size=8, learning_rate=0.05, weight_decay=1e-3, checkpoints=4
    )
    validation, test = images(12, 10 * seed + 2, name="validation"), images(9, 10 * seed + 3, name="test")
    return Study(model, train, test, validation, trajectory)


def convex_study() -> Study:
    """Softmax regression with an L2 penalty at its minimum, on 20 % wrong labels.

    Returns:
        A study of its own: 48 training, 24 validation and 12 test images, 5 checkpoints of gradient descent, float64.
    """
    return _own(_convex_study())


@functools.cache
def _convex_study() -> Study:
    parts = images(48, 1, 0.2, "train"), images(12, 3, name="test"), images(24, 2, name="validation")
    return solved_study(*parts)


def black_study() -> Study:
    """As ``convex_study``, but with black images only: every gradient lies in the biases.

    Returns:
        A study of its own: 12 training images of three classes of unequal size, one test image per class.
    """
    return _own(_black_study())


@functools.cache
def _black_study() -> Study:
    def black(labels: list[int], name: str) -> LabelledDataset:
        inputs = torch.zeros(len(labels), 1, SIDE, SIDE, dtype=torch.float64)
        return LabelledDataset(TensorDataset(inputs, torch.tensor(labels)), true_labels=labels, name=name)

    train = black([0] * 5 + [1] * 4 + [2] * 3, "train")
    return solved_study(train, black([0, 1, 2], "test"), black([0, 0, 1, 1, 2, 2], "validation"))


def solved_study(train: LabelledDataset, test: LabelledDataset, validation: LabelledDataset) -> Study:
    """Softmax regression trained to the minimum.

    Args:
        train: of images [1, 4, 4] in float64.
        test: likewise.
        validation: likewise.

    Returns:
        The study, with five checkpoints of gradient descent from zero.
    """
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES)).double()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    trajectory = fit(
        model,
        train,
        batch_size=len(train),
        epochs=100,
        learning_rate=0.3,
        momentum=0.0,
        weight_decay=PENALTY,
        checkpoints=5,
    )
    return Study(minimum(train), train, test, validation, trajectory, weight_decay=PENALTY)


def minimum(
    train: LabelledDataset, start: nn.Module | None = None, free: Tensor | None = None, penalty: float = PENALTY
) -> nn.Module:
    """Softmax regression at the minimum of mean cross-entropy + penalty/2 |w|^2, by Newton steps with line search.

    Args:
        train: of images [1, 4, 4] in float64.
        start: the model to start from; all weights are zero by default.
        free: which entries of weight and bias may change, boolean [P] in that order; all by default.
        penalty: weight decay. With N/n times that of N images, the minimum without some of them is that of a loss which
            keeps its divisor N.

    Returns:
        The model, in eval mode.
    """
    inputs, labels = train.batch(range(len(train)))
    x = torch.cat([inputs.flatten(1), torch.ones(len(train), 1, dtype=torch.float64)], 1)
    weights = torch.zeros(CLASSES, x.shape[1], dtype=torch.float64)
    if start is not None:
        weights = _joined([p.detach() for p in start.parameters()])
    fixed = torch.zeros(weights.numel(), dtype=torch.bool)
    if free is not None:
        fixed = ~_joined(list(free.split([CLASSES * SIDE * SIDE, CLASSES]))).flatten()
    hits = torch.nn.functional.one_hot(labels, CLASSES).double()
    for _ in range(50):
        p = (x @ weights.T).softmax(1)
        gradient = (p - hits).T @ x / len(x) + penalty * weights
        gradient.view(-1)[fixed] = 0
        if float(gradient.abs().max()) < 1e-13:
            break
        spread = torch.diag_embed(p) - p[:, :, None] * p[:, None]
        hessian = torch.einsum("nab,ni,nj->aibj", spread, x, x).reshape(weights.numel(), -1) / len(x)
        hessian.diagonal().add_(penalty)
        hessian[fixed] = 0
        hessian[:, fixed] = 0
        hessian[fixed, fixed] = 1
        step = torch.linalg.solve(hessian, gradient.flatten()).view_as(weights)
        size, before = 1.0, _objective(weights, x, labels, penalty)
        while _objective(weights - size * step, x, labels, penalty) > before + 1e-15 and size > 1e-6:
            size /= 2
        weights -= size * step
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, CLASSES)).double().eval()
    model.load_state_dict({"1.weight": weights[:, :-1], "1.bias": weights[:, -1]})
    return model


def _joined(parts: list[Tensor]) -> Tensor:
    """Weight and bias as one matrix [CLASSES, SIDE * SIDE + 1]."""
    return torch.cat([parts[0].reshape(CLASSES, -1), parts[1][:, None]], 1).clone()


def _objective(weights: Tensor, x: Tensor, labels: Tensor, penalty: float) -> float:
    return float(cross_entropy(x @ weights.T, labels).mean() + penalty / 2 * weights.square().sum())


@functools.cache
def leave_one_out_effects() -> Tensor:
    """Change of each test loss of ``convex_study`` when a training image is left out and the model is trained anew.

    Returns:
        [48, 12]; positive: the training image was helpful.
    """
    study = _convex_study()
    inputs, labels = study.test.batch(range(len(study.test)))

    def losses(kept: Tensor) -> Tensor:
        with torch.no_grad():
            return cross_entropy(minimum(study.train.subset(kept))(inputs), labels)

    everything = torch.arange(len(study.train))
    before = losses(everything)
    return torch.stack([losses(everything[everything != i]) - before for i in everything])


def rotated(study: Study, seed: int = 0) -> Study:
    """The same softmax regression in rotated coordinates: all outputs, and all angles of gradients, are the same.

    Args:
        study: of ``Flatten`` and ``Linear``.
        seed: of the rotation.

    Returns:
        The rotated study.
    """
    generator = torch.Generator().manual_seed(seed)
    size = SIDE * SIDE
    rotation = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]

    def data(of: LabelledDataset) -> LabelledDataset:
        inputs, labels = of.batch(range(len(of)))
        turned = (inputs.flatten(1) @ rotation).view_as(inputs)
        return LabelledDataset(TensorDataset(turned, labels), true_labels=of.true_labels, name=of.name)

    def state(of: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: t @ rotation.to(t.device) if name == "1.weight" else t.clone() for name, t in of.items()}

    model = copy.deepcopy(study.model)
    model.load_state_dict(state(study.model.state_dict()))
    checkpoints = [Checkpoint(**c.facts(), state=state(c.state)) for c in study.trajectory or ()]
    return study.replaced(
        model=model,
        train=data(study.train),
        test=data(study.test),
        validation=data(study.split("validation")),
        trajectory=Trajectory(checkpoints),
    )
