"""VM's other curvatures and eq. 20, against dense float64 matrices and loops over images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from influence_core.curvature.inverses import INVERSES, InverseSpec, KroneckerInverse, Probes
from influence_core.errors import InvalidInput
from influence_core.estimators import VM
from tests.helpers import literal_gradients, study
from tests.oracle.test_estimators_literal import softened

CROSS_ENTROPY = nn.CrossEntropyLoss(reduction="none")
SETTINGS = {"steps": 6, "learning_rate": 0.05, "weight_decay": 0.02, "batch_size": 5, "seed": 7}


@pytest.fixture(scope="module")
def small():
    return study()


def flat(vectors):
    return torch.cat([v.flatten(1) for v in vectors.values()], dim=1)


def dense_inverse(metric, small, model, damping):
    """The inverse curvature of the mean validation loss, as a matrix."""
    data = small.validation
    g = literal_gradients(model, small.loss, data)
    size = g.shape[1]
    if metric == "lissa":  # Gauss-Newton: J' (diag p - p p') J, row by row
        inputs, _ = data.batch(range(len(data)))
        ggn = torch.zeros(size, size, dtype=torch.float64)
        for x in inputs:
            z = model(x[None])[0]
            rows = [torch.autograd.grad(c, list(model.parameters()), retain_graph=True) for c in z]
            jacobian = torch.stack([torch.cat([r.flatten() for r in row]) for row in rows])
            p = z.detach().softmax(0)
            ggn += jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian / len(inputs)
        return torch.linalg.inv(ggn + damping * ggn.diagonal().mean() * torch.eye(size))
    inverse, start = torch.zeros(size, size, dtype=torch.float64), 0  # DataInf: eq. 5, tensor by tensor
    for parameter in model.parameters():
        end = start + parameter.numel()
        rows = g[:, start:end]
        shift = damping * rows.square().sum(1).mean() / parameter.numel()
        eye = torch.eye(end - start, dtype=torch.float64)
        inverse[start:end, start:end] = torch.stack(
            [torch.linalg.inv(torch.outer(r, r) + shift * eye) for r in rows]
        ).mean(0)
        start = end
    return inverse


@pytest.mark.parametrize(
    ("metric", "loss"),
    [("lissa", CROSS_ENTROPY), ("datainf", CROSS_ENTROPY), ("datainf", softened), ("ekfac", softened)],
)
def test_probes(small, metric, loss):
    small = small.replaced(loss=loss)
    damping = 30.0 if metric == "lissa" else 0.3  # so that LiSSA converges to its tolerance, 1e-4
    estimator = VM(metric=metric, damping=damping, probes=4, **SETTINGS).fit(small)
    model = estimator.model_
    probes = flat(Probes.through(estimator.inverse_, model, 4, 7).vectors)
    if metric == "ekfac":
        kfac = KroneckerInverse.fit(model, small.loss, small.validation, damping=damping)
        eye, shapes = torch.eye(probes.shape[1], dtype=torch.float64), [p.shape for p in model.parameters()]
        parts = eye.split([s.numel() for s in shapes], dim=1)
        names = [n for n, _ in model.named_parameters()]
        inverse = flat(kfac.apply({n: p.reshape(-1, *s) for n, p, s in zip(names, parts, shapes, strict=True)}).vectors)
    else:
        inverse = dense_inverse(metric, small, model, damping)

    def q(gradients):
        found = torch.zeros(len(gradients), dtype=torch.float64)
        for v in probes:
            found += torch.stack([(g @ inverse @ v) * (v @ g) for g in gradients]) / 4
        return found

    train = literal_gradients(model, small.loss, small.train)
    tolerance = 2e-3 if metric == "lissa" else 1e-8
    found, expected = estimator.mislabel_scores().values, q(train)
    assert torch.allclose(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    labels = estimator.label_influence().values
    for label in range(3):
        g = literal_gradients(model, small.loss, small.train, torch.full((24,), label))
        assert torch.allclose(labels[:, label], -q(g), rtol=tolerance, atol=tolerance * float(labels.abs().max()))
    test = literal_gradients(model, small.loss, small.test)
    expected = train @ inverse @ test.T
    error = float((estimator.influence().values - expected).abs().max())
    assert error <= tolerance * float(expected.abs().max())


def test_probes_are_unbiased_and_can_be_negative(small):
    many = VM(metric="ekfac", probes=4000, **SETTINGS).fit(small)
    exact = KroneckerInverse.fit(many.model_, small.loss, small.validation, damping=0.1)
    g = literal_gradients(many.model_, small.loss, small.train)
    parts = g.split([p.numel() for p in many.model_.parameters()], dim=1)
    stacked = {n: x.reshape(-1, *p.shape) for (n, p), x in zip(many.model_.named_parameters(), parts, strict=True)}
    q = (flat(exact.apply(stacked).vectors) * g).sum(1)
    ratio = many.mislabel_scores().values / q
    assert float((ratio - 1).abs().mean()) < 0.1
    few = VM(metric="ekfac", probes=1, **SETTINGS).fit(small).mislabel_scores().values
    assert (few < 0).any()


def test_ekfac_needs_no_probes(small):
    """Its norms are exact for its matrix, with the given labels and with all others, from sweeps alone."""
    estimator = VM(metric="ekfac", **SETTINGS).fit(small)
    assert estimator.probes_ is None
    names = [n for n, _ in estimator.model_.named_parameters()]
    shapes = [p.shape for p in estimator.model_.parameters()]

    def q(gradients):
        parts = gradients.split([s.numel() for s in shapes], dim=1)
        stacked = {n: p.reshape(-1, *s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return (flat(estimator.inverse_.apply(stacked).vectors) * gradients).sum(1)

    expected = q(literal_gradients(estimator.model_, small.loss, small.train))
    assert torch.allclose(estimator.mislabel_scores().values, expected, rtol=1e-9)
    labels = estimator.label_influence().values
    for label in range(3):
        given = torch.full((24,), label)
        assert torch.allclose(labels[:, label], -q(literal_gradients(estimator.model_, small.loss, small.train, given)))


def test_probes_and_dampings_of_the_diagonal(small):
    """It is exact whatever number of probes is asked for, and options leave its damping as it is."""
    plain = VM(**SETTINGS).fit(small)
    for other in (VM(probes=5, **SETTINGS), VM(metric=InverseSpec("diagonal", {"seed": 1}), **SETTINGS)):
        assert torch.equal(other.fit(small).mislabel_scores().values, plain.mislabel_scores().values)
    with pytest.raises(InvalidInput, match="give the damping once"):
        VM(damping=0.5, metric=InverseSpec("ekfac", {"damping": 0.1}))


@pytest.mark.parametrize("metric", sorted(INVERSES))
def test_every_inverse_is_a_metric(small, metric):
    """Whatever multiplies by an inverse curvature can be chosen by name or with options."""
    options = {"damping": 5.0} | ({"rank": 4, "steps": 8} if metric == "arnoldi" else {})
    estimator = VM(metric=InverseSpec(metric, options), **SETTINGS).fit(small)
    assert estimator.influence().values.isfinite().all()
    assert estimator.mislabel_scores().values.std() > 0
    assert estimator.label_influence().values.shape == (24, 3)


@pytest.mark.parametrize("metric", ["ekfac", "lissa", "datainf", "conjugategradient"])
def test_asking_fits_nothing_again(small, metric, monkeypatch):
    estimator = VM(metric=InverseSpec(metric, {"damping": 5.0}), **SETTINGS).fit(small)
    fits = []
    for cls in INVERSES.values():
        monkeypatch.setattr(cls, "fit", classmethod(lambda *_, **__: fits.append(1)))
    first = estimator.influence().values
    assert torch.equal(estimator.influence().values, first)
    estimator.mislabel_scores()
    assert fits == []


@pytest.mark.parametrize("hessian", ["diagonal", "outer"])
def test_equation_20(small, hessian):
    estimator = VM(pairwise="eq20", epsilon=0.3, hessian=hessian, damping=0.01, **SETTINGS).fit(small)
    inverse = torch.cat([w.flatten() for w in estimator.inverse_.weights.values()])
    train, test = (literal_gradients(estimator.model_, small.loss, d) for d in (small.train, small.test))
    expected = torch.zeros(24, 9, dtype=torch.float64)
    for n in range(24):
        x = inverse * train[n]
        for v in range(9):
            g = test[v]
            curvature = torch.diag(g * g) if hessian == "diagonal" else torch.outer(g, g)
            expected[n, v] = g @ x + 0.5 * 0.3 * x @ curvature @ x
    found = estimator.influence().values
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-10)
    first = VM(damping=0.01, **SETTINGS).fit(small).influence().values
    assert (found >= first).all()
    assert not torch.allclose(found, first, rtol=1e-3)


def test_eq20_with_another_metric_squares_the_first_term(small):
    one, both = (
        VM(metric="datainf", pairwise=p, hessian="outer", **SETTINGS).fit(small) for p in ("first_order", "eq20")
    )
    first = one.influence().values
    assert torch.allclose(both.influence().values, first + 0.005 * first.square(), rtol=1e-10)


def test_what_was_solved_is_saved(small, tmp_path):
    for metric in ("lissa", "ekfac", "datainf"):
        estimator = VM(metric=metric, probes=2, **SETTINGS).fit(small)
        estimator.save(tmp_path / "vm.safetensors")
        loaded = VM.load(tmp_path / "vm.safetensors", small)
        for method in ("mislabel_scores", "label_influence", "influence"):
            assert torch.equal(getattr(loaded, method)().values, getattr(estimator, method)().values)
        assert "damping" in estimator.mislabel_scores().meta


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: VM(metric="hessian"), "no inverse curvature 'hessian'; choose one of conjugategradient, dense"),
        (lambda: VM(metric=InverseSpec("ekfac", {"steps": 3})), "'ekfac' has no option 'steps'; it has damping"),
        (lambda: VM(pairwise="both"), "pairwise is 'both'"),
        (lambda: VM(hessian="full"), "hessian is 'full'"),
        (lambda: VM(metric="lissa", pairwise="eq20"), "choose hessian='outer'"),
        (lambda: VM(probes=0), "probes is 0"),
    ],
)
def test_refusals(made, message):
    with pytest.raises(InvalidInput, match=message):
        made()
