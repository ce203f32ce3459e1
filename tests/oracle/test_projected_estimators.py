"""RandProj, TracInRP and TRAK against their formulas, with the projection written out as a matrix."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators import TRAK, RandProj, TracIn, TracInRP
from influence_core.estimators.gradient_products.projected import PROJECTIONS
from influence_core.estimators.gradient_products.trak import margin
from influence_core.losses import cross_entropy
from influence_core.study import Study
from tests.helpers import literal_gradients, study


@pytest.fixture(scope="module")
def small() -> Study:
    return study()


def matrix(study: Study, kind: str, dim: int, seed: int) -> Tensor:
    """The projection as a matrix [P, k]: the features of unit vectors, in the order of the parameters."""
    rows = []
    for name, parameter in study.model.named_parameters():
        size = parameter.numel()
        units = torch.eye(size, dtype=torch.float64).reshape(size, *parameter.shape)
        rows.append(PROJECTIONS[kind](dim, seed).vectors({name: units}))
    return torch.cat(rows)


def checkpoints(study: Study, last: int | None = None) -> list[nn.Module]:
    models = []
    for checkpoint in study.trajectory[-(last or 0) :]:
        model = copy.deepcopy(study.model)
        model.load_state_dict(checkpoint.state)
        models.append(model.eval())
    return models


kinds = pytest.mark.parametrize("kind", PROJECTIONS)


@kinds
def test_randproj(small, kind):
    q = matrix(small, kind, 24, 5)
    train, test = (literal_gradients(small.model, small.loss, d) @ q for d in (small.train, small.test))
    estimator = RandProj(dim=24, projection=kind, seed=5).fit(small)
    assert torch.allclose(estimator.influence().values, train @ test.T, rtol=1e-9, atol=1e-12)
    assert torch.allclose(estimator.influence([4]).values, (train @ test.T)[:, [4]], rtol=1e-9, atol=1e-12)
    assert torch.allclose(estimator.self_influence().values, (train @ train.T).diagonal(), rtol=1e-9)
    assert torch.equal(estimator.mislabel_scores().values, estimator.self_influence().values)


@kinds
@pytest.mark.parametrize("weights", ["equal", "learning_rate"])
@pytest.mark.parametrize("last", [None, 2])
def test_tracinrp_has_one_matrix_at_all_checkpoints(small, kind, weights, last):
    q = matrix(small, kind, 24, 5)
    influence, own = torch.zeros(24, 9, dtype=torch.float64), torch.zeros(24, dtype=torch.float64)
    models = checkpoints(small, last)
    for model, checkpoint in zip(models, small.trajectory[-len(models) :], strict=True):
        weight = checkpoint.learning_rate if weights == "learning_rate" else 1 / len(models)
        train, test = (literal_gradients(model, small.loss, d) @ q for d in (small.train, small.test))
        influence += weight * train @ test.T
        own += weight * train.square().sum(1)
    estimator = TracInRP(dim=24, projection=kind, seed=5, weights=weights, last=last).fit(small)
    assert torch.allclose(estimator.influence().values, influence, rtol=1e-9, atol=1e-12)
    assert torch.allclose(estimator.self_influence().values, own, rtol=1e-9)


def test_another_matrix_per_checkpoint_would_be_another_score(small):
    """The control of the test above: the seeds of the matrices do matter."""
    one, two = (TracInRP(dim=24, seed=s).fit(small).influence().values for s in (0, 1))
    assert not torch.allclose(one, two, rtol=1e-2)


@pytest.mark.parametrize("kind", ["sketch", "dense"])
def test_products_are_right_on_average(small, kind):
    """400 seeds at k = 23: each product deviates by sqrt(2/k) of the norms at most, its mean by a twentieth of that.

    The mean of 400 lies within 5 standard errors in all 216 places with a probability of more than 99.98 %.
    """
    dim, seeds = 23, 400
    train, test = (literal_gradients(small.model, small.loss, d) for d in (small.train, small.test))
    exact, norms = train @ test.T, train.norm(dim=1)[:, None] * test.norm(dim=1)
    seen = torch.stack([(train @ q) @ (test @ q).T for q in (matrix(small, kind, dim, seed) for seed in range(seeds))])
    bound = 5 * (2 / dim) ** 0.5 * norms / seeds**0.5
    assert ((seen.mean(0) - exact).abs() <= bound).all()
    assert torch.allclose(seen[3], RandProj(dim=dim, projection=kind, seed=3).fit(small).influence().values)
    error = ((seen - exact) / norms).square().mean() ** 0.5
    assert 0.3 * (2 / dim) ** 0.5 < error < 1.2 * (2 / dim) ** 0.5  # 1 to 2 of the 2 / k: it depends on the angle


def test_the_error_shrinks_with_the_dimension(small):
    exact = TracIn(weights="equal").fit(small).influence().values
    errors = [
        torch.stack([TracInRP(dim=dim, seed=s).fit(small).influence().values - exact for s in range(4)]).square().mean()
        for dim in (20, 512)
    ]
    assert errors[1] < errors[0] / 8  # 512 / 20 = 25.6 in theory


def test_a_projection_wider_than_the_model_is_near_the_identity(small):
    exact = TracIn(weights="equal").fit(small).influence().values
    projected = TracInRP(dim=200_003, projection="sketch").fit(small).influence().values
    assert sum(p.numel() for p in small.model.parameters()) < 200
    assert torch.allclose(projected, exact, rtol=1e-6, atol=0.03 * float(exact.abs().max()))


# --- TRAK


def literal_trak(study: Study, models: list[nn.Module], q: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Influence and self-influence with loops over images and a dense inverse."""

    def log_odds(outputs, labels):
        p = outputs.softmax(1).gather(1, labels[:, None])[:, 0]
        return torch.log(p / (1 - p))

    influences, leverages, doubts = [], [], []
    for model in models:
        train = literal_gradients(model, log_odds, study.train) @ q
        test = literal_gradients(model, log_odds, study.test) @ q
        gram = sum(torch.outer(row, row) for row in train)
        inverse = torch.linalg.inv(gram + damping * torch.trace(gram) / len(gram) * torch.eye(len(gram)).double())
        influences.append(torch.stack([torch.stack([t @ inverse @ v for v in test]) for t in train]))
        leverages.append(torch.stack([t @ inverse @ t for t in train]))
        inputs, labels = study.train.batch(range(len(study.train)))
        doubts.append(1 - model(inputs).softmax(1).gather(1, labels[:, None])[:, 0].detach())
    doubt = sum(doubts) / len(doubts)
    return doubt[:, None] * sum(influences) / len(models), doubt * sum(leverages) / len(models)


@kinds
@pytest.mark.parametrize(("damping", "last"), [(0.1, None), (1e-3, 2), (10.0, 1)])
def test_trak(small, kind, damping, last):
    q = matrix(small, kind, 14, 2)
    influence, own = literal_trak(small, checkpoints(small, last), q, damping)
    estimator = TRAK(dim=14, projection=kind, damping=damping, last=last, seed=2).fit(small)
    assert torch.allclose(estimator.influence().values, influence, rtol=1e-8, atol=1e-10)
    assert torch.allclose(estimator.influence([7, 2]).values, influence[:, [7, 2]], rtol=1e-8, atol=1e-10)
    assert torch.allclose(estimator.self_influence().values, own, rtol=1e-8)
    assert (influence < 0).any()
    assert len(estimator.damping_) == len(estimator.checkpoints_) == (last or 4)


def test_trak_without_a_trajectory_uses_the_trained_model(small):
    alone = small.replaced(trajectory=None)
    influence, own = literal_trak(small, [small.model], matrix(small, "sketch", 14, 0), 0.1)
    estimator = TRAK(dim=14).fit(alone)
    assert torch.allclose(estimator.influence().values, influence, rtol=1e-8, atol=1e-10)
    assert torch.allclose(estimator.self_influence().values, own, rtol=1e-8)


def test_trak_asks_for_cross_entropy(small):
    def same(outputs, labels):
        return -outputs.log_softmax(1).gather(1, labels[:, None])[:, 0]

    def hinge(outputs, labels):
        return (1 - margin(outputs, labels)).clamp_min(0)

    written = TRAK(dim=14).fit(small.replaced(loss=same)).influence().values
    assert torch.equal(written, TRAK(dim=14).fit(small).influence().values)
    with pytest.raises(NotSupported, match=r"margin.*cross-entropy.*TracInRP, RandProj"):
        TRAK(dim=14).fit(small.replaced(loss=hinge))


def test_margin_keeps_its_digits_where_the_model_is_certain():
    outputs = torch.tensor([[60.0, 0.0, 1.0], [0.5, 0.2, -3.0]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1])
    values = margin(outputs, labels)
    assert torch.allclose(values[0], 60 - torch.tensor([0.0, 1.0], dtype=torch.float64).logsumexp(0))
    assert torch.allclose(torch.nn.functional.softplus(-values), cross_entropy(outputs, labels), rtol=1e-12)
    (gradient,) = torch.autograd.grad(values.sum(), outputs)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("estimator", [RandProj, TracInRP, TRAK])
def test_refusals(estimator):
    with pytest.raises(InvalidInput, match="dim is 1"):
        estimator(dim=1)
    with pytest.raises(InvalidInput, match="projection is 'sparse'; choose 'sketch'"):
        estimator(projection="sparse")
    if estimator is not RandProj:
        with pytest.raises(InvalidInput, match="last is 0"):
            estimator(last=0)
    if estimator is TRAK:
        with pytest.raises(InvalidInput, match="damping is 0"):
            estimator(damping=0)
