"""Projections: the matrix they stand for, its expectation, and how well it keeps inner products."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from influence_core.gradients import DenseProjection, FactoredProjection, Projection, SketchProjection, project
from tests.cases import CASES, Case, cross_entropy
from tests.models_for_tests import small_cnn
from tests.references import assert_close, flat, one_by_one

PROJECTIONS = {
    "sketch": lambda seed=0: SketchProjection(16, seed),
    "sketch with folded inputs": lambda seed=0: SketchProjection(2, seed, input_fold=1.0),
    "factored": lambda seed=0: FactoredProjection(12, seed),
    "factored prime": lambda seed=0: FactoredProjection(7, seed),
    "signs": lambda seed=0: DenseProjection(8, seed),
    "gaussian": lambda seed=0: DenseProjection(8, seed, "gaussian"),
}
each_projection = pytest.mark.parametrize("make", PROJECTIONS.values(), ids=PROJECTIONS.keys())


def matrix(projection: Projection, gradients: dict[str, Tensor]) -> Tensor:
    """``[P, k]``, row by row from unit vectors."""
    blocks = []
    for name, gradient in gradients.items():
        size = gradient[0].numel()
        units = torch.eye(size, dtype=torch.float64).reshape(size, *gradient.shape[1:])
        blocks.append(projection.vectors({name: units}))
    return torch.cat(blocks)


@each_projection
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_features(case: Case, make) -> None:  # type: ignore[no-untyped-def]
    model, loss, data = case.make()
    gradients = one_by_one(model, loss, data)
    if sum(g[0].numel() for g in gradients.values()) > 10_000:
        expected = make().vectors(gradients)
    else:
        expected = flat(gradients) @ matrix(make(), gradients)
    assert_close(project(model, loss, data, make(), batch_size=4), expected)
    assert not torch.allclose(project(model, loss, data, make(1), batch_size=4), expected)


@each_projection
def test_batches_and_types_do_not_matter(make) -> None:  # type: ignore[no-untyped-def]
    model, loss, data = next(case for case in CASES if case.name == "resnet18").make(samples=7)
    whole = project(model, loss, data, make(), batch_size=7)
    for batch_size in (1, 3):
        assert_close(project(model, loss, data, make(), batch_size=batch_size), whole)
    single = project(model.float(), loss, data, make(), batch_size=4)
    assert single.dtype == torch.float32
    assert_close(single.double(), whole, 1e-3)


@each_projection
def test_another_checkpoint_has_the_same_matrix(make) -> None:  # type: ignore[no-untyped-def]
    projection = make()
    vectors = {"weight": torch.randn(3, 5, 4), "bias": torch.randn(3, 5)}
    assert torch.equal(projection.vectors(vectors), make().vectors(vectors))
    assert torch.equal(projection.vectors(vectors), projection.vectors(vectors))


@each_projection
def test_expectation_is_the_identity(make) -> None:  # type: ignore[no-untyped-def]
    """The mean of R'R over 400 seeds: entries deviate by at most 6 standard errors of about 1 / sqrt(400)."""
    gradients = {"weight": torch.zeros(1, 3, 6), "bias": torch.zeros(1, 3)}
    total = torch.zeros(21, 21, dtype=torch.float64)
    for seed in range(400):
        rows = matrix(make(seed), gradients)
        total += rows @ rows.T / 400
    assert float((total - torch.eye(21, dtype=torch.float64)).abs().max()) < 6 * 400**-0.5


def test_sketch_is_as_accurate_as_a_dense_projection() -> None:
    """Root-mean-square error of inner products of real gradients, against a dense projection's at the same k."""
    torch.manual_seed(0)
    model = nn.Sequential(*small_cnn(widths=(8, 16, 32))).double().eval()
    data = (torch.randn(24, 1, 28, 28, dtype=torch.float64), torch.randint(0, 10, (24,)))
    gradients = flat(one_by_one(model, cross_entropy, data))
    norms = gradients.norm(dim=1)
    exact = gradients @ gradients.T / (norms[:, None] * norms)

    def error(make) -> float:  # type: ignore[no-untyped-def]
        squares = 0.0
        for seed in range(4):
            features = project(model, cross_entropy, data, make(128, seed))
            squares += float(((features @ features.T) / (norms[:, None] * norms) - exact).square().mean()) / 4
        return squares**0.5

    dense = error(DenseProjection)
    assert error(SketchProjection) < 1.3 * dense
    assert error(FactoredProjection) > 1.3 * dense  # the price of its smaller memory, and that this test can fail


def test_refusals() -> None:
    with pytest.raises(ValueError, match="dim=0"):
        FactoredProjection(0)
    with pytest.raises(ValueError, match="dim=1"):
        SketchProjection(1)
    with pytest.raises(ValueError, match="input_fold is 0"):
        SketchProjection(8, input_fold=0)
    with pytest.raises(ValueError, match="'uniform'"):
        DenseProjection(8, kind="uniform")  # type: ignore[arg-type]
