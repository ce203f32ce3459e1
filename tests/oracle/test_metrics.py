"""Norms in Kronecker metrics, against the written-out quadratic form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from influence_core.gradients import KroneckerFactors, KroneckerMetric, squared_norms
from tests.cases import CASES
from tests.references import assert_close, one_by_one

NAMES = ["conv2d", "conv2d first layer", "linear middle axes", "used twice", "resnet18", "conv2d groups", "frozen"]


def basis(size: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_kronecker_metric(name: str, with_bias: bool) -> None:
    model, loss, data = next(case for case in CASES if case.name == name).make()
    gradients = one_by_one(model, loss, data)
    layers, expected = {}, torch.zeros(len(data[0]), dtype=torch.float64)
    for weight, gradient in gradients.items():
        if gradient.dim() < 3 or gradient[0].numel() > 600:
            continue
        bias = weight.replace("weight", "bias")
        bias = bias if with_bias and bias in gradients else None
        matrices = gradient.flatten(2)
        if bias:
            matrices = torch.cat([matrices, gradients[bias][:, :, None]], dim=2)
        rows, columns = matrices.shape[1:]
        factors = KroneckerFactors(basis(columns), basis(rows), torch.rand(rows, columns, dtype=torch.float64), bias)
        layers[weight] = factors
        # The quadratic form itself, (Q_A x Q_S) diag (Q_A x Q_S)', on the row-major flattened matrix.
        full = torch.kron(factors.outputs, factors.inputs)
        form = full @ torch.diag(factors.inverse_eigenvalues.flatten()) @ full.T
        expected += torch.einsum("ni,ij,nj->n", matrices.flatten(1), form, matrices.flatten(1))
    assert layers
    assert_close(squared_norms(model, loss, data, KroneckerMetric(layers), batch_size=4), expected)


def test_identity_is_the_plain_norm() -> None:
    model, loss, data = next(case for case in CASES if case.name == "frozen").make()
    eye = torch.eye(6, dtype=torch.float64)
    layers = {
        "2.weight": KroneckerFactors(eye[:5, :5], eye[:5, :5], torch.ones(5, 5)),
        "4.weight": KroneckerFactors(eye, eye[:2, :2], torch.ones(2, 6), "4.bias"),
    }
    assert_close(squared_norms(model, loss, data, KroneckerMetric(layers)), squared_norms(model, loss, data))


def test_refusals() -> None:
    model = nn.Linear(3, 2)
    data, loss = (torch.randn(4, 3), torch.zeros(4)), lambda outputs, labels: outputs.square().sum(1)
    metric = KroneckerMetric({"weight": KroneckerFactors(torch.eye(3), torch.eye(2), torch.ones(2, 3), "bias")})
    with pytest.raises(ValueError, match=r"inputs of 'weight' has shape \(3, 3\), expected \(4, 4\)"):
        squared_norms(model, loss, data, metric)
    with pytest.raises(ValueError, match="wants 'bias', which the sweep does not choose"):
        squared_norms(model, loss, data, metric, parameters="weight")
    with pytest.raises(ValueError, match=r"no weights for 'bias'; give a tensor \(2,\)"):
        squared_norms(model, loss, data, {"weight": torch.ones(2, 3)})
    with pytest.raises(ValueError, match=r"'weight' have shape \(3, 2\), expected \(2, 3\)"):
        squared_norms(model, loss, data, {"weight": torch.ones(3, 2), "bias": torch.ones(2)})
