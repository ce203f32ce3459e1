"""Dense float64 curvature by plain autograd, and small problems on which it is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import influence_core as ic

Loss = Callable[[Tensor, Tensor], Tensor]


def squared(outputs: Tensor, labels: Tensor) -> Tensor:
    """Half squared distance to a target that the integer label stands for: -1, 0, 1, ..."""
    return 0.5 * (outputs - (labels - 1).to(outputs.dtype)[:, None]).square().sum(1)


def mlp(depth: int, seed: int = 0, width: int = 4, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return ic.models.build("mlp", inputs=5, classes=classes, hidden=width, depth=depth).double().eval()


def points(count: int, seed: int, classes: int = 3) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    noisy = inputs[:, :classes] + 1.5 * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    return TensorDataset(inputs, noisy.argmax(1))


def small_study(depth: int, **parts: Any) -> ic.Study:
    """A few dozen points; weights are random, which influence functions do not mind."""
    whole = {"train": points(30, 1), "test": points(6, 2), "validation": points(8, 3), "weight_decay": 0.03}
    return ic.Study(mlp(depth), **(whole | parts))


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


def vector(values: dict[str, Tensor]) -> Tensor:
    return torch.cat([v.flatten() for v in values.values()])


def restored(row: Tensor, model: nn.Module) -> dict[str, Tensor]:
    shapes = parameters(model)
    parts = row.split([p.numel() for p in shapes.values()])
    return {name: part.view_as(p) for (name, p), part in zip(shapes.items(), parts, strict=True)}


def dense_hessian(model: nn.Module, loss: Loss, data: TensorDataset) -> Tensor:
    inputs, labels = data.tensors

    def mean(row: Tensor) -> Tensor:
        return loss(torch.func.functional_call(model, restored(row, model), (inputs,)), labels).mean()

    return torch.autograd.functional.hessian(mean, vector(parameters(model)))


def dense_ggn(model: nn.Module, loss: Loss, data: TensorDataset) -> Tensor:
    inputs, labels = data.tensors

    def outputs(row: Tensor) -> Tensor:
        return torch.func.functional_call(model, restored(row, model), (inputs,))

    row = vector(parameters(model))
    jacobian = torch.autograd.functional.jacobian(outputs, row)
    total = torch.zeros(len(row), len(row), dtype=row.dtype)
    for j, o, y in zip(jacobian, outputs(row), labels, strict=True):
        curved = torch.autograd.functional.hessian(lambda out, y=y: loss(out[None], y[None])[0], o.detach())
        total += j.T @ curved @ j
    return total / len(inputs)


def gradients(model: nn.Module, loss: Loss, data: Any) -> Tensor:
    """[N, P], by batches of one."""
    rows = []
    for i in range(len(data)):
        inputs, label = data[i]
        value = loss(model(inputs[None]), torch.as_tensor(label)[None])[0]
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))]))
    return torch.stack(rows)


def tensors(data: ic.data.LabelledDataset) -> TensorDataset:
    return TensorDataset(*data.batch(range(len(data))))


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
