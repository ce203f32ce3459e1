"""Inverse curvatures against dense float64 matrices: what they multiply by, their metrics, roots, and compositions."""

from __future__ import annotations

import pytest
import torch

from influence_core.curvature import GaussNewton, flatten, unflatten
from influence_core.curvature.inverses import (
    INVERSES,
    CholeskyInverse,
    ConjugateGradients,
    DenseInverse,
    DiagonalInverse,
    InverseSpec,
    KroneckerInverse,
    LeadingEigenpairs,
    NeumannSeries,
    NystromInverse,
    Probes,
    spec,
    worst,
)
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators import SAMIF, ConjugateGradient, Estimator
from influence_core.gradients import per_sample_gradients, squared_norms
from tests.helpers import study
from tests.oracle.curvature_references import relative

DECAY = 0.05


@pytest.fixture(scope="module")
def small():
    return study(epochs=12)


@pytest.fixture(scope="module")
def parts(small):
    return small.model, small.loss, small.train


@pytest.fixture(scope="module")
def matrix(parts):
    """The Gauss-Newton matrix, without shifts."""
    return GaussNewton(*parts)


@pytest.fixture(scope="module")
def gradients(small):
    return per_sample_gradients(small.model, small.loss, small.test)


EXACT = {
    "conjugate gradients": lambda *of: ConjugateGradients.fit(*of, weight_decay=DECAY, tolerance=1e-12),
    "preconditioned": lambda *of: InverseSpec(
        "conjugategradient", {"preconditioner": "ekfac", "weight_decay": DECAY, "tolerance": 1e-12}
    ).fit(*of),
    "Neumann": lambda *of: NeumannSeries.fit(*of, damping=30.0, weight_decay=DECAY, tolerance=1e-12, steps=4000),
    "dense": lambda *of: DenseInverse.fit(*of, weight_decay=DECAY),
    "Nystroem of full rank": lambda *of: NystromInverse.fit(*of, weight_decay=DECAY, rank=10**6),
}


@pytest.mark.parametrize("name", EXACT)
def test_those_that_are_exact(parts, matrix, gradients, name):
    inverse = EXACT[name](*parts)
    rows = flatten(gradients, matrix.shapes)
    damping = inverse.facts()["damping"]
    whole = matrix.dense() + (DECAY + damping) * torch.eye(matrix.size, dtype=torch.float64)
    found = inverse.apply(gradients)
    assert relative(flatten(found.vectors, matrix.shapes), torch.linalg.solve(whole, rows.T).T) < 1e-9
    assert found.facts.get("residual", 0.0) < 1e-11
    assert inverse.facts()["weight_decay"] == DECAY


def test_the_whole_krylov_space_is_exact(parts, matrix, gradients):
    inverse = LeadingEigenpairs.fit(*parts, rank=matrix.size, steps=matrix.size, weight_decay=DECAY)
    rows = flatten(gradients, matrix.shapes)
    basis = flatten(inverse.basis, matrix.shapes)
    projected = rows @ basis.T @ basis
    whole = matrix.dense() + (DECAY + inverse.damping) * torch.eye(matrix.size, dtype=torch.float64)
    expected = torch.linalg.solve(whole, projected.T).T
    assert relative(flatten(inverse.apply(gradients).vectors, matrix.shapes), expected) < 1e-6


def test_a_factor_that_is_there_already(parts, matrix, gradients):
    whole = matrix.dense() + 0.3 * torch.eye(matrix.size, dtype=torch.float64)
    inverse = CholeskyInverse(torch.linalg.cholesky(whole), matrix.shapes, 0.2, 0.1)
    rows = flatten(gradients, matrix.shapes)
    found = flatten(inverse.apply(gradients).vectors, matrix.shapes)
    assert relative(found, torch.linalg.solve(whole, rows.T).T) < 1e-12


ROOTS = {
    "dense": lambda *of: DenseInverse.fit(*of, weight_decay=DECAY),
    "ekfac": lambda *of: KroneckerInverse.fit(*of, weight_decay=DECAY),
    "diagonal": lambda *of: DiagonalInverse.fit(*of, weight_decay=DECAY),
    "nystrom": lambda *of: NystromInverse.fit(*of, weight_decay=DECAY, rank=5),
    "diagonal of each tensor": lambda *of: DiagonalInverse.fit(*of, relative_to="tensor", labels="sampled"),
}


@pytest.mark.parametrize("name", ROOTS)
def test_a_root_applied_twice_is_the_inverse(parts, gradients, name):
    inverse = ROOTS[name](*parts)
    root = inverse.root()
    twice = root.apply(root.apply(gradients).vectors).vectors
    for parameter, expected in inverse.apply(gradients).vectors.items():
        assert relative(twice[parameter], expected) < 1e-10


@pytest.mark.parametrize("name", ["ekfac", "diagonal", "diagonal of each tensor"])
def test_a_metric_is_the_inverse_on_both_sides(small, parts, gradients, name):
    inverse = ROOTS[name](*parts)
    solved = inverse.apply(gradients).vectors
    expected = torch.stack([(g * solved[n]).flatten(1).sum(1) for n, g in gradients.items()]).sum(0)
    assert relative(squared_norms(small.model, small.loss, small.test, inverse.metric()), expected) < 1e-10
    assert relative(inverse.squared_norms(small.model, small.loss, small.test), expected) < 1e-10
    labels = inverse.label_norms(small.model, small.loss, small.test, 3)
    given = labels.gather(1, small.test.labels[:, None])[:, 0]
    assert relative(given, expected) < 1e-9


@pytest.mark.parametrize("name", sorted(INVERSES))
def test_what_is_not_cheap_is_refused_and_probed(small, parts, name):
    options = {"rank": 4, "steps": 8} if name == "arnoldi" else {}
    inverse = InverseSpec(name, options).fit(*parts, damping=1.0)
    if not inverse.has_metric:
        with pytest.raises(NotSupported, match=f"{type(inverse).__name__} has no metric: see curvature.inverses.Probe"):
            inverse.metric()
    if not inverse.has_root:
        with pytest.raises(NotSupported, match="has no square root"):
            inverse.root()
    probes = Probes.through(inverse, small.model, 3, seed=1)
    assert probes.count == 3
    assert probes.squared_norms(*parts).shape == (24,)


def test_nystroem_has_the_large_eigenvalues_and_bounds_the_rest(parts, matrix):
    inverse = NystromInverse.fit(*parts, rank=8, weight_decay=DECAY, seed=3)
    again = NystromInverse.fit(*parts, rank=8, weight_decay=DECAY, seed=3)
    assert torch.equal(inverse.basis, again.basis)
    assert relative(inverse.basis @ inverse.basis.T, torch.eye(8, dtype=torch.float64)) < 1e-12
    shift = DECAY + inverse.damping
    values, true = 1 / inverse.values - shift, torch.linalg.eigvalsh(matrix.dense()).flip(0)
    assert (values <= true[:8] * (1 + 1e-9)).all()  # it is below the matrix
    assert relative(values[:3], true[:3]) < 0.1
    whole = matrix.dense() + shift * torch.eye(matrix.size, dtype=torch.float64)
    root = torch.linalg.cholesky(whole)
    basis = unflatten(root.T.contiguous(), matrix.shapes)
    spread = torch.linalg.eigvalsh(root.T @ flatten(inverse.apply(basis).vectors, matrix.shapes).T)
    plain = torch.linalg.eigvalsh(whole)
    assert spread[0] > 0
    assert spread[-1] / spread[0] < 0.2 * plain[-1] / plain[0]


def test_as_a_preconditioner_nystroem_takes_the_damping_of_the_solve(parts, gradients):
    for options, damping in (({}, 0.7), ({"damping": 0.2}, 0.2)):
        prior = InverseSpec("nystrom", options | {"rank": 6})
        solver = InverseSpec("conjugategradient", {"preconditioner": prior, "damping": 0.7}).fit(*parts)
        absolute = NystromInverse.fit(*parts, damping=damping).damping
        assert solver.facts()["preconditioner"] == {
            "name": "nystrom",
            "damping": absolute,
            "weight_decay": 0.0,
            "rank": 6,
        }


def test_preconditioning_leaves_the_solution_and_the_better_it_is_the_fewer_the_products(parts, gradients):
    plain = ConjugateGradients.fit(*parts, damping=1e-3, tolerance=1e-8)
    one = plain.apply(gradients)
    iterations = {}
    for name in ("ekfac", "diagonal", "dense", "nystrom"):
        prior = InverseSpec(name, {"damping": 1e-3})
        chosen = InverseSpec("conjugategradient", {"preconditioner": prior})
        preconditioned = chosen.fit(*parts, damping=1e-3, tolerance=1e-8)
        facts = preconditioned.facts()
        assert facts.pop("preconditioner")["name"] == name  # whose damping is its own
        assert facts == plain.facts()
        two = preconditioned.apply(gradients)
        for parameter, expected in one.vectors.items():
            assert relative(two.vectors[parameter], expected) < 1e-4
        iterations[name] = two.facts["iterations"]
    assert iterations["dense"] <= 2  # the inverse itself: one step, and one for rounding
    assert one.facts["iterations"] > 10
    assert iterations["nystrom"] < one.facts["iterations"]


@pytest.mark.parametrize("cls", [ConjugateGradient, SAMIF])
@pytest.mark.parametrize("given", ["ekfac", InverseSpec("diagonal", {"damping": 0.5})], ids=["name", "spec"])
def test_estimators_take_a_preconditioner(small, tmp_path, cls, given):
    settings = {"tolerance": 1e-10} | ({"rho": 0.01} if cls is SAMIF else {})
    plain = cls(**settings).fit(small).influence()
    estimator = cls(preconditioner=given, **settings).fit(small)
    found = estimator.influence()
    assert relative(found.values, plain.values) < 1e-7
    assert found.meta["residual"] < 1e-9
    estimator.save(tmp_path / "e.safetensors")
    loaded = Estimator.load(tmp_path / "e.safetensors", small)
    assert loaded.get_params() == estimator.get_params()
    assert torch.equal(loaded.influence().values, found.values)


def test_specs_say_what_there_is():
    with pytest.raises(InvalidInput, match="no inverse curvature 'newton'; choose one of conjugategradient, dense"):
        spec("newton")
    with pytest.raises(InvalidInput, match="'dense' has no option 'labels'; it has damping, weight_decay, curvature"):
        InverseSpec("dense", {"labels": "exact"})
    with pytest.raises(InvalidInput, match="no inverse curvature 'newton'"):
        ConjugateGradient(preconditioner="newton")
    assert spec(InverseSpec("dense")) == spec("dense")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ekfac", {"damping": float("nan")}, "damping is nan; expected a finite number"),
        ("ekfac", {"damping": float("inf")}, "damping is inf"),
        ("ekfac", {"weight_decay": float("nan")}, "weight_decay is nan"),
        ("ekfac", {"corrected": "no"}, "corrected is 'no'; expected True or False"),
        ("ekfac", {"damping": "x"}, "damping is 'x'; expected a number"),
        ("diagonal", {"relative_to": "foo"}, "relative_to is 'foo'; choose 'all' or 'tensor'"),
        ("arnoldi", {"samples": 1.5}, "samples is 1.5; expected a whole number"),
        ("conjugategradient", {"tolerance": float("nan")}, "tolerance is nan"),
        ("conjugategradient", {"preconditioner": 5}, "preconditioner is 5; give a name"),
        ("conjugategradient", {"preconditioner": "arnoldi"}, "'arnoldi' cannot precondition: it is singular"),
        ("conjugategradient", {"preconditioner": "lissa"}, "'lissa' cannot precondition"),
        (["x"], {}, "no inverse curvature"),
        ("ekfac", None, "options is None; give a dict"),
    ],
)
def test_options_are_checked_when_a_spec_is_made(name, options, message):
    with pytest.raises(InvalidInput, match=message):
        InverseSpec(name, options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dense", {"weight_decay": -1.0}, "weight_decay is -1.0"),
        ("diagonal", {"weight_decay": -1.0}, "weight_decay is -1.0"),
        ("ekfac", {"damping": -0.1}, "damping is -0.1"),
        ("datainf", {"damping": 0.0}, "each summand has rank one"),
        ("nystrom", {"rank": 0}, "rank is 0"),
        ("arnoldi", {"rank": 0}, "rank=0"),
        ("arnoldi", {"samples": 0}, "samples=0"),
        ("lissa", {"steps": 0}, "steps is 0"),
        ("conjugategradient", {"tolerance": 1.5}, "tolerance is 1.5"),
    ],
)
def test_ranges_are_checked_before_anything_is_fitted(parts, name, options, message):
    with pytest.raises(InvalidInput, match=message):
        InverseSpec(name, options).fit(*parts)


def test_a_pair_of_tensors_is_divided_by_its_samples_or_refused(small, gradients):
    data = small.train.batch(range(24))
    for name in sorted(INVERSES):
        chosen = InverseSpec(name, {"rank": 4, "steps": 8} if name == "arnoldi" else {})
        expected = chosen.fit(small.model, small.loss, small.train, damping=1.0).apply(gradients).vectors
        if name in ("arnoldi", "datainf"):  # which take some of the samples
            with pytest.raises(InvalidInput, match=r"wrap it in ic\.data\.LabelledDataset"):
                chosen.fit(small.model, small.loss, data)
            continue
        found = chosen.fit(small.model, small.loss, data, damping=1.0).apply(gradients).vectors
        for parameter, vectors in expected.items():
            assert relative(found[parameter], vectors) < 1e-12


def test_a_spec_keeps_its_options():
    options = {"damping": 0.5}
    one = InverseSpec("ekfac", options)
    options["damping"] = -1.0
    assert one.options == {"damping": 0.5}
    assert hash(one) == hash(InverseSpec("ekfac"))


def test_the_worst_of_several_calls():
    calls = [
        {"residual": 0.1, "iterations": 3, "converged": True, "warnings": ["a"]},
        {"residual": 0.3, "iterations": 2, "converged": False, "warnings": ["a", "b"]},
    ]
    assert worst(calls) == {"residual": 0.3, "iterations": 3, "converged": False, "warnings": ["a", "b"]}
    assert worst([]) == {}


def test_an_inverse_does_not_change_when_it_is_asked(parts, gradients, matrix):
    for name in INVERSES:
        options = {"rank": 4, "steps": 8} if name == "arnoldi" else {}
        inverse = InverseSpec(name, options).fit(*parts, damping=1.0)
        before = inverse.facts()
        first = flatten(inverse.apply(gradients).vectors, matrix.shapes)
        inverse.apply(unflatten(7 * first, matrix.shapes))
        assert torch.equal(flatten(inverse.apply(gradients).vectors, matrix.shapes), first)
        assert inverse.facts() == before
