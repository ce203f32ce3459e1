"""The sweep: data, batches, number types, several consumers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from influence_core.batches import batch_size_for
from influence_core.gradients import (
    DenseProjection,
    Gradients,
    InnerProducts,
    MeanGradient,
    MeanSquares,
    Projections,
    Queries,
    SquaredNorms,
    inner_products,
    mean_gradient,
    mean_squares,
    per_sample_gradients,
    project,
    squared_norms,
    sweep,
)
from influence_core.gradients.memory import MIB
from influence_core.progress import listen
from tests.cases import CASES, cross_entropy, squares
from tests.models_for_tests import small_cnn
from tests.references import assert_close, flat, one_by_one

MODEL = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
X, Y = torch.randn(9, 4), torch.randint(0, 3, (9,))


class ByBatch:
    """Gives batches, and refuses to give single samples."""

    def __len__(self) -> int:
        return len(X)

    def batch(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return X[ids], Y[ids]

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("the fast path was not taken")


def test_kinds_of_data() -> None:
    expected = squared_norms(MODEL, cross_entropy, (X, Y))
    for data in (TensorDataset(X, Y), [(x, int(y)) for x, y in zip(X, Y, strict=True)], ByBatch(), (X.double(), Y)):
        assert_close(squared_norms(MODEL, cross_entropy, data, batch_size=4), expected, 1e-5)


def test_labels_instead_of_the_datas_own() -> None:
    other = (Y + 1) % 3
    expected = squared_norms(MODEL, cross_entropy, (X, other))
    assert not torch.allclose(expected, squared_norms(MODEL, cross_entropy, (X, Y)))
    assert_close(squared_norms(MODEL, cross_entropy, ByBatch(), labels=other, batch_size=4), expected, 1e-5)


def test_data_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="empty"):
        squared_norms(MODEL, cross_entropy, (X[:0], Y[:0]))
    with pytest.raises(ValueError, match="9 inputs and 8 labels"):
        squared_norms(MODEL, cross_entropy, (X, Y[:8]))
    with pytest.raises(ValueError, match="8 labels are given for 9 samples"):
        squared_norms(MODEL, cross_entropy, (X, Y), labels=Y[:8])
    with pytest.raises(TypeError, match="generator is not a dataset"):
        squared_norms(MODEL, cross_entropy, (pair for pair in ()))


def test_one_sample() -> None:
    assert_close(
        squared_norms(MODEL, cross_entropy, (X[:1], Y[:1])), squared_norms(MODEL, cross_entropy, (X, Y))[:1], 1e-5
    )


def test_progress_and_report() -> None:
    seen: list[tuple[int, int]] = []
    with listen(lambda what, done, total: seen.append((done, total))):
        report = sweep(MODEL, cross_entropy, (X, Y), [], batch_size=4)
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert report.samples == 9
    assert report.batch_size == 4
    assert report.seconds > 0
    assert torch.allclose(report.losses, cross_entropy(MODEL(X), Y))


@pytest.mark.parametrize("name", ["resnet18", "vit", "tied embedding and linear"])
def test_several_consumers_at_once(name: str) -> None:
    model, loss, data = next(case for case in CASES if case.name == name).make()
    queries = Queries.record(model, loss, tuple(part[:3] for part in data))
    consumers = [
        InnerProducts(queries),
        SquaredNorms(),
        Projections(DenseProjection(4)),
        Gradients(),
        MeanGradient(),
        MeanSquares(),
    ]
    sweep(model, loss, data, consumers, batch_size=4)
    products, norms, features, gradients, mean, squared = (consumer.result() for consumer in consumers)
    assert_close(products, inner_products(model, loss, data, tuple(part[:3] for part in data)))
    assert_close(norms, squared_norms(model, loss, data))
    assert_close(features, project(model, loss, data, DenseProjection(4)))
    assert_close(flat(gradients), flat(per_sample_gradients(model, loss, data)))
    for found, expected in ((mean, mean_gradient(model, loss, data)), (squared, mean_squares(model, loss, data))):
        assert_close(
            torch.cat([g.flatten() for g in found.values()]), torch.cat([g.flatten() for g in expected.values()])
        )


def test_queries_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"entries for '0\.weight', which the sweep does not choose"):
        inner_products(MODEL, cross_entropy, (X, Y), {"0.weight": torch.ones(2, 5, 4)}, parameters="2")
    with pytest.raises(ValueError, match=r"'0\.weight' has shape \(4, 5\), the model's \(5, 4\)"):
        inner_products(MODEL, cross_entropy, (X, Y), {"0.weight": torch.ones(2, 4, 5)})
    with pytest.raises(ValueError, match="one M for all parameters"):
        Queries.from_vectors({"a": torch.ones(2, 3), "b": torch.ones(3, 3)})


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "mixer", "conv2d groups", "conv3d", "embedding"])
def test_single_precision(name: str) -> None:
    """Through the ways that float32 takes, among them oneDNN's where the processor prefers it."""
    model, loss, data = next(case for case in CASES if case.name == name).make()
    expected = flat(one_by_one(model, loss, data))
    products = inner_products(model.float(), loss, data, data, batch_size=4)
    assert products.dtype == torch.float32
    assert_close(products.double(), expected @ expected.T, 2e-4)


def test_single_precision_of_a_larger_network() -> None:
    torch.manual_seed(0)
    model = small_cnn(widths=(16, 32, 48)).eval()
    data = (torch.randn(5, 1, 28, 28), torch.randint(0, 10, (5,)))
    expected = flat(one_by_one(model, cross_entropy, data))
    found = flat(per_sample_gradients(model, cross_entropy, data, batch_size=3))
    assert_close(found, expected, 1e-4)


def test_autocast() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))
    data = (torch.randn(6, 3, 8, 8), torch.randint(0, 3, (6,)))
    exact = inner_products(model, cross_entropy, data, data)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = inner_products(model, cross_entropy, data, data, batch_size=4)
    assert coarse.dtype == torch.float32
    assert_close(coarse, exact, 0.05)
    assert not torch.equal(coarse, exact)


def test_automatic_batch_size() -> None:
    assert batch_size_for(1, MIB / 8, 100) == 8
    assert batch_size_for(1, 2 * MIB, 100) == 1
    assert batch_size_for(100, 1, 7) == 7
    torch.manual_seed(0)
    model = small_cnn().eval()
    data = (torch.randn(70, 1, 28, 28), torch.randint(0, 10, (70,)))
    sizes = [sweep(model, cross_entropy, data, [], memory_mib=mib).batch_size for mib in (8, 32, 128)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_under_no_grad_and_inference_mode() -> None:
    expected = squared_norms(MODEL, squares, (X, Y))
    with torch.no_grad():
        assert_close(squared_norms(MODEL, squares, (X, Y)), expected, 1e-6)
    with torch.inference_mode():
        assert_close(squared_norms(MODEL, squares, (X, Y)), expected, 1e-6)
        assert_close(squared_norms(MODEL, squares, (X + 0.0, Y + 0)), expected, 1e-6)
