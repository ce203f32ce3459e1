"""Small data and models, and literal versions of what the package computes by cleverer ways."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.data import LabelledDataset
from influence_core.testing import problems


def images(n: int = 24, seed: int = 0, noise: float = 0.0, dtype: torch.dtype = torch.float64, **parts: Any):
    """The grey images of ``ic.testing``, scaled to 0..1 so that there are pictures of them."""
    data = problems.images(n, seed, noise)
    inputs, given = data.batch(range(n))
    inputs = (inputs / 1.5).to(dtype)
    return LabelledDataset(TensorDataset(inputs, given), **({"true_labels": data.true_labels, "name": "data"} | parts))


def net(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The network of ``ic.testing`` before training, with statistics that are not those of a fresh layer."""
    torch.manual_seed(seed)
    model = problems.network().to(dtype)
    model(torch.randn(16, 1, 4, 4, dtype=dtype))
    return model.eval()


def study(noise: float = 0.25, epochs: int = 4, dtype: torch.dtype = torch.float64) -> ic.Study:
    """A model with batch normalisation, trained for a moment on mislabelled images, with four checkpoints."""
    train, model = images(24, seed=1, noise=noise, dtype=dtype), net(dtype=dtype)
    settings = {"batch_size": 8, "learning_rate": 0.05, "weight_decay": 1e-3, "checkpoints": 4}
    trajectory = ic.training.fit(model, train, optimizer="sam", epochs=epochs, **settings)
    test, validation = images(9, seed=3, dtype=dtype), images(12, seed=2, dtype=dtype)
    return ic.Study(model, train, test, validation, trajectory)


def literal_gradients(model: nn.Module, loss: Any, data: LabelledDataset, labels: Tensor | None = None) -> Tensor:
    """Gradient of each sample by plain autograd on a batch of one, [N, P]."""
    rows = []
    for i in range(len(data)):
        inputs, given = data.batch([i])
        given = given if labels is None else labels[i : i + 1]
        gradients = torch.autograd.grad(loss(model(inputs), given).sum(), list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(rows)


def drawn_batches(data: LabelledDataset, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a training run: every pass in a new order of one generator, a last batch of one left out."""
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = data.batch(range(len(data)))
    while True:
        order = torch.randperm(len(data), generator=generator).tolist()
        for start in range(0, len(order), size):
            ids = order[start : start + size]
            if len(ids) > 1:
                yield inputs[ids], labels[ids]


class LiteralSGD:
    """SGD with momentum and weight decay, and SAM around it, written out with lists of tensors."""

    def __init__(self, model: nn.Module, momentum: float, weight_decay: float, rho: float = 0.0) -> None:
        self.model, self.momentum, self.weight_decay, self.rho = model, momentum, weight_decay, rho
        self.velocity = [torch.zeros_like(p) for p in model.parameters()]

    def step(self, inputs: Tensor, labels: Tensor, rate: float) -> None:
        at = self.model
        if self.rho > 0:
            gradients = self._gradients(self.model, inputs, labels)
            norm = sum(float(g.square().sum()) for g in gradients) ** 0.5
            at = copy.deepcopy(self.model)  # a copy: its running statistics go nowhere
            with torch.no_grad():
                for parameter, g in zip(at.parameters(), gradients, strict=True):
                    parameter += self.rho * g / norm
        gradients = self._gradients(at, inputs, labels)
        with torch.no_grad():
            for i, parameter in enumerate(self.model.parameters()):
                step = gradients[i] + self.weight_decay * parameter
                self.velocity[i] = self.momentum * self.velocity[i] + step
                parameter -= rate * self.velocity[i]

    @staticmethod
    def _gradients(model: nn.Module, inputs: Tensor, labels: Tensor) -> list[Tensor]:
        loss = nn.functional.cross_entropy(model(inputs), labels)
        return list(torch.autograd.grad(loss, list(model.parameters())))


def states_equal(left: nn.Module, right: nn.Module, tolerance: float = 0.0) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.allclose(a.double(), b.double(), rtol=0, atol=tolerance) for a, b in pairs)
