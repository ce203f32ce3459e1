"""The works that contenders are timed on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.models_for_tests import resnet18, small_cnn

Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Work:
    """A model, N training samples, M queries, and the batch size of everybody.

    Attributes:
        model: In eval mode.
        train: N samples.
        queries: M samples.
        batch: Samples per batch.
        last: Name of the last layer.
    """

    model: nn.Module
    train: Data
    queries: Data
    batch: int
    last: str

    def cut(self, samples: int, queries: int) -> Work:
        """The same with fewer samples."""
        train = (self.train[0][:samples], self.train[1][:samples])
        return Work(self.model, train, (self.queries[0][:queries], self.queries[1][:queries]), self.batch, self.last)


def make(name: str, samples: int | None = None, queries: int | None = None) -> Work:
    """Work A, a small CNN on 28x28 images (N = 4000, M = 200), or B, ResNet-18 on 32x32 (N = 500, M = 20)."""
    torch.manual_seed(0)
    if name == "A":
        model, shape, batch, last, n, m = small_cnn(), (1, 28, 28), 64, "10", 4000, 200
    elif name == "B":
        model, shape, batch, last, n, m = resnet18(), (3, 32, 32), 16, "13", 500, 20
    else:
        raise ValueError(f'work {name!r} is unknown; expected "A" or "B"')
    n, m = samples or n, queries or m
    inputs, labels = torch.randn(n + m, *shape), torch.randint(0, 10, (n + m,))
    return Work(model.eval(), (inputs[:n], labels[:n]), (inputs[n:], labels[n:]), batch, last)


def losses(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, one per sample."""
    return F.cross_entropy(outputs, labels, reduction="none")


def batches(data: Data, size: int) -> list[Data]:
    """Consecutive batches."""
    return list(zip(data[0].split(size), data[1].split(size), strict=True))
