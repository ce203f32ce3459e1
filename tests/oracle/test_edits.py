"""Removals, new labels and new weights against exact retraining, one kind at a time and mixed in one call.

Softmax regression is retrained by Newton steps to a gradient below 1e-12, with the divisor N that it had; with SAM, to
the point where SAM stands still. ``python -m tests.oracle.test_edits`` prints the relative errors of the changes.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import pytest
import torch
import typer
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.estimators import (
    EKFAC,
    FIF,
    GIF,
    PIF,
    SAMGIF,
    SAMHIF,
    SAMIF,
    Arnoldi,
    ConjugateGradient,
    DataInf,
    Estimator,
    LastLayer,
    LiSSA,
)
from influence_core.models import layer_inputs
from tests.oracle.curvature_references import (
    mlp,
    relative,
    restored,
    vector,
)
from tests.oracle.test_sharpness_aware import Case, data, own, slope, stationary

CLASSES = 3
RHO, DECAY = 0.1, 0.05
SIZE = 120
EDITED = 3
"""Images of each kind of change."""

Changes = dict[str, Any]


def changes(study: ic.Study, seed: int = 0) -> dict[str, Changes]:
    """Kind -> arguments of ``parameter_change``: for random images, random labels, and weights from 0.2 to 3."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(SIZE, generator=generator).tolist()
    first, second, third, both = (order[EDITED * i : EDITED * (i + 1)] for i in range(4))
    labels, shift = study.train.labels, torch.randint(1, CLASSES, (SIZE,), generator=generator)
    new = {i: int((labels[i] + shift[i]) % CLASSES) for i in second + both}
    weights = dict(zip(third + both, [0.2, 2.0, 3.0, 0.5, 1.5, 2.5], strict=True))
    return {
        "removal": {"remove": first},
        "relabel": {"relabel": {i: new[i] for i in second}},
        "reweight": {"weight": {i: weights[i] for i in third}},
        "mixed": {"remove": first, "relabel": new, "weight": weights},
    }


KINDS = ["removal", "relabel", "reweight", "mixed"]
kinds = pytest.mark.parametrize("kind", KINDS)


def asked(study: ic.Study, change: Changes) -> tuple[Tensor, Tensor]:
    """Labels and weights afterwards, by the meaning of the words."""
    labels, weights = study.train.labels.clone(), torch.ones(len(study.train), dtype=torch.float64)
    for i, label in change.get("relabel", {}).items():
        labels[i] = label
    for i, w in change.get("weight", {}).items():
        weights[i] = w
    weights[change.get("remove", [])] = 0
    return labels, weights


# Problems, solved


def softmax_study(seed: int, rho: float = 0.0, size: int = SIZE) -> ic.Study:
    """Softmax regression at the minimum, or at SAM's own stationary point."""
    case = Case(size, 5, CLASSES, rho, DECAY, seed)
    torch.manual_seed(seed)
    model = ic.models.build("mlp", inputs=5, classes=CLASSES, hidden=1, depth=0).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    parts = {"test": data(15, case, 2), "validation": data(15, case, 3)}
    study = ic.Study(model, data(size, case, 1), weight_decay=DECAY, **parts)
    return study.edited(restored(retrained(study, {}, 0.0) if rho == 0 else _sam_minimum(study, rho), model))


def _sam_minimum(study: ic.Study, rho: float) -> Tensor:
    """From the minimum, as SAM's condition has a gradient in its denominator that zero weights may not tell from 0."""
    start = own(study) + retrained(study, {}, 0.0)
    return retrained(study.edited(restored(start - own(study), study.model)), {}, rho) + start - own(study)


def retrained(study: ic.Study, change: Changes, rho: float = 0.0) -> Tensor:
    """How the weights really move, [P]."""
    labels, weights = asked(study, change)
    after = study.replaced(train=study.train.with_labels(labels))
    whole = (weights / len(weights))[None]
    return stationary(slope(after, rho), own(study), whole)[0] - own(study)


plain = functools.cache(softmax_study)
sharp = functools.cache(partial(softmax_study, rho=RHO))


@functools.cache
def topped(seed: int) -> ic.Study:
    """A network whose last layer is at its minimum, the layer below being random."""
    case = Case(SIZE, 5, CLASSES, 0.0, DECAY, seed)
    model = mlp(1, seed, width=6, classes=CLASSES)
    study = ic.Study(model, data(SIZE, case, 1), data(15, case, 2), data(15, case, 3), weight_decay=DECAY)
    change = retrained(on_top(study), {})
    return study.edited(of_last_layer(study, change))


def last_layer(study: ic.Study) -> str:
    return [name for name, module in study.model.named_modules() if isinstance(module, nn.Linear)][-1]


def on_top(study: ic.Study) -> ic.Study:
    """Softmax regression on the inputs of the last layer."""
    path = last_layer(study)
    features = TensorDataset(layer_inputs(study.model, path, study.train), study.train.labels)
    model = nn.Sequential(study.model.get_submodule(path))
    return ic.Study(model, features, features, weight_decay=study.weight_decay)


def of_last_layer(study: ic.Study, row: Tensor) -> dict[str, Tensor]:
    layer = study.model.get_submodule(last_layer(study))
    size = layer.weight.numel()
    return {f"{last_layer(study)}.weight": row[:size].view_as(layer.weight), f"{last_layer(study)}.bias": row[size:]}


# Methods


@dataclass(frozen=True)
class Method:
    """An estimator, the problem that it is for, and what is true there."""

    make: Callable[[], Estimator]
    study: Callable[[int], ic.Study] = plain
    truth: Callable[[ic.Study, Changes], Tensor] = retrained
    rate: bool = True
    """Whether the error falls with the size of the change, as that of an exact first order does."""

    def error(self, study: ic.Study, change: Changes) -> float:
        """Relative error of the change of all weights."""
        found = self.make().fit(study).parameter_change(**change)
        return relative(vector(found), self.truth(study, change))


def every_weight(cls: type[Estimator]) -> Callable[[], Estimator]:
    """An editor that may change all weights of softmax regression."""
    masks = {"1.weight": torch.ones(CLASSES, 5, dtype=torch.bool), "1.bias": torch.ones(CLASSES, dtype=torch.bool)}
    return lambda: cls(selector=masks, scale=1.0, tolerance=1e-13, max_iterations=200)  # type: ignore[call-arg]


def with_sam(study: ic.Study, change: Changes) -> Tensor:
    return retrained(study, change, RHO)


def of_the_top(study: ic.Study, change: Changes) -> Tensor:
    return retrained(on_top(study), change)


HESSIAN = {"damping": 0.0, "curvature": "hessian"}
TIGHT = HESSIAN | {"tolerance": 1e-12}
METHODS = {
    "ConjugateGradient": Method(lambda: ConjugateGradient(**TIGHT)),
    "LiSSA": Method(lambda: LiSSA(steps=5000, **TIGHT)),
    "Arnoldi": Method(lambda: Arnoldi(rank=18, steps=18, **HESSIAN)),
    "EKFAC": Method(lambda: EKFAC(damping=0.0, labels="exact"), rate=False),
    "DataInf": Method(lambda: DataInf(damping=0.1), rate=False),
    "LastLayer": Method(lambda: LastLayer(damping=0.0), topped, of_the_top),
    "SAMIF": Method(lambda: SAMIF(rho=RHO, **TIGHT), sharp, with_sam, rate=False),
    "SAMHIF": Method(lambda: SAMHIF(rho=RHO, max_response=1e9, **TIGHT), sharp, with_sam),
    "GIF": Method(every_weight(GIF)),
    "FIF": Method(every_weight(FIF)),
    "PIF": Method(every_weight(PIF)),
}
exact = [name for name, method in METHODS.items() if method.rate]
methods = pytest.mark.parametrize("name", METHODS)
quiet = pytest.mark.filterwarnings("ignore:a change of the weights turns")


def main(
    seeds: Annotated[int, typer.Option(help="How many problems, from seed 0.")] = 5,
) -> None:
    """Print relative errors of the predicted change of the weights, mean over the seeds."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "a change of the weights turns")
    typer.echo(
        "Relative error of the change of the weights, |predicted - retrained| / |retrained|: softmax regression (and, "
        "where it says so, linear regression), "
        f"{SIZE} images of which {EDITED} of a kind change ({4 * EDITED} if mixed), weight decay {DECAY}, SAM's rho "
        f"{RHO}; mean of seeds 0 to {seeds - 1}\n"
    )
    typer.echo(f"| method | {' | '.join(KINDS)} |\n|---|{'---|' * len(KINDS)}")
    for name, row in table(seeds).items():
        typer.echo(f"| {name} | {' | '.join(_cell(row[kind]) for kind in KINDS)} |")


def _cell(error: float) -> str:
    return f"{error:.3f}" if error > 1e-3 else f"{error:.0e}"


def table(seeds: int) -> dict[str, dict[str, float]]:
    """Method -> kind -> mean over seeds of the relative error."""
    found: dict[str, dict[str, float]] = {}
    for name, method in (METHODS | QUADRATIC).items():
        rows = []
        for seed in range(seeds):
            study = method.study(seed)
            rows.append({kind: method.error(study, change) for kind, change in changes(study, seed).items()})
        found[name] = {kind: statistics.mean(row[kind] for row in rows) for kind in KINDS}
    return found


# Against retraining


@quiet
@methods
@kinds
def test_the_change_is_that_of_retraining(name, kind):
    """3 to 12 of 120 images: within a quarter; EK-FAC's curvature is an approximation, DataInf's a crude one."""
    method, seed = METHODS[name], 1
    study = method.study(seed)
    change = changes(study, seed)[kind]
    found, true = vector(method.make().fit(study).parameter_change(**change)), method.truth(study, change)
    assert relative(found, true) < {"EKFAC": 0.4, "DataInf": 10.0}.get(name, 0.25)
    assert float(torch.cosine_similarity(found, true, dim=0)) > {"EKFAC": 0.9, "DataInf": 0.5}.get(name, 0.98)


@quiet
@pytest.mark.parametrize("name", exact)
def test_weights_have_an_error_of_second_order(name):
    """Weights of 1 + eps, of both signs: the error relative to the change is of first order in eps."""
    method = METHODS[name]
    study, error = method.study(0), []
    for eps in (0.08, 0.04, 0.02):
        weights = {i: 1 + eps * sign for i, sign in zip(range(7, 27), [1, -1, 1, 2, 1] * 4, strict=True)}
        error.append(method.error(study, {"weight": weights}))
    assert error[0] < 0.05, error
    for larger, smaller in itertools.pairwise(error):
        assert 0.45 < smaller / larger < 0.55, error


@quiet
@pytest.mark.parametrize("name", exact)
@kinds
def test_the_error_falls_with_the_size_of_the_change(name, kind):
    """With m copies of every image the minimum is the same and one of them counts 1/m: half the change, half the error.

    SAMIF, which leaves out that the ascent moves, keeps an error however small the change is.
    """
    error = [_error_with_copies(METHODS[name], kind, copies) for copies in (8, 16)]
    assert 0.45 < error[1] / error[0] < 0.55, error


def _error_with_copies(method: Method, kind: str, copies: int) -> float:
    study = method.study(0)
    change = changes(study)[kind]
    many = study.replaced(train=study.train.subset(torch.arange(SIZE).repeat(copies)))
    return method.error(many, change)


def test_what_samif_leaves_out_stays():
    few, many = (_error_with_copies(METHODS["SAMIF"], "mixed", copies) for copies in (8, 32))
    assert many > 0.8 * few > 0.01


def test_the_divisor_stays():
    """A training on the mean over the n images that are left is the same with N/n times the weight decay."""
    study, gone = plain(0), list(range(0, SIZE, 3))
    left = torch.tensor([i for i in range(SIZE) if i not in gone])
    true, count = retrained(study, {"remove": gone}), len(left)
    fewer = study.replaced(train=study.train.subset(left), weight_decay=DECAY * SIZE / count)
    assert relative(retrained(fewer, {}), true) < 1e-9
    assert relative(retrained(fewer.replaced(weight_decay=DECAY), {}), true) > 0.05


# A quadratic loss


def square(outputs: Tensor, labels: Tensor) -> Tensor:
    """Half the squared distance from the one-hot label."""
    return 0.5 * (outputs - nn.functional.one_hot(labels, CLASSES).to(outputs)).square().sum(1)


def quadratic(study: ic.Study, change: Changes, free: Tensor | None = None) -> Tensor:
    """The minimum for this loss in closed form, of the weights in ``free`` alone: [P], relative to the study's."""
    labels, weights = asked(study, change)
    inputs = study.train.batch(range(len(study.train)))[0]
    x = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=inputs.dtype)], 1)
    hits = nn.functional.one_hot(labels, CLASSES).to(x)
    gram = (x * weights[:, None]).T @ x / len(x) + study.weight_decay * torch.eye(6, dtype=x.dtype)
    hessian = torch.kron(torch.eye(CLASSES, dtype=x.dtype), gram)
    places = torch.arange(CLASSES * 6).reshape(CLASSES, 6)
    order = torch.cat([places[:, :-1].flatten(), places[:, -1]])  # weight, then bias
    hessian, right = hessian[order][:, order], ((hits * weights[:, None]).T @ x / len(x)).flatten()[order]
    free = torch.ones(len(order), dtype=torch.bool) if free is None else free
    step = torch.zeros(len(order), dtype=x.dtype)
    step[free] = torch.linalg.solve(hessian[free][:, free], (right - hessian @ own(study))[free])
    return step


@functools.cache
def linear(seed: int) -> ic.Study:
    study = plain(seed).replaced(loss=square)
    return study.edited(restored(quadratic(study, {}), study.model))


QUADRATIC = {
    f"{name}, squared error": Method(METHODS[name].make, linear, quadratic)
    for name in ("ConjugateGradient", "EKFAC", "FIF")
}


@kinds
@pytest.mark.parametrize("name", ["GIF", "FIF", "PIF"])
def test_a_newton_step_on_a_quadratic_loss_is_exact(name, kind):
    study = linear(0)
    change = changes(study)[kind]
    true = quadratic(study, change)
    assert float(true.norm()) > 1e-3
    assert relative(vector(METHODS[name].make().fit(study).parameter_change(**change)), true) < 1e-9
    wide = study.replaced(
        train=study.train.subset(torch.arange(2 * EDITED * 4))
    )  # most of few images change, twice over
    wide = wide.edited(restored(quadratic(wide, {}), wide.model))
    every = {"remove": [0, 1], "relabel": {i: 2 - int(wide.train.labels[i]) for i in range(2, 9)}}
    every["weight"] = {i: 0.3 * i for i in range(6, 15)}
    assert relative(vector(METHODS[name].make().fit(wide).parameter_change(**every)), quadratic(wide, every)) < 1e-9


@kinds
def test_frozen_weights_and_a_quadratic_loss(kind):
    """FIF reaches the minimum that some weights can, and the others stay."""
    study, mask = linear(0), torch.tensor([[True, False, True, True, False]] * CLASSES)
    change = changes(study)[kind]
    fif = FIF(selector={"1.weight": mask}, scale=1.0, tolerance=1e-14, max_iterations=200).fit(study)
    free = torch.cat([mask.flatten(), torch.zeros(CLASSES, dtype=torch.bool)])
    found = fif.parameter_change(**change)
    assert relative(torch.cat([found["1.weight"].flatten(), torch.zeros(3)]), quadratic(study, change, free)) < 1e-9


@pytest.mark.parametrize("name", ["ConjugateGradient", "LiSSA", "Arnoldi", "EKFAC", "LastLayer"])
def test_new_labels_are_exact_for_a_quadratic_loss(name):
    """They leave its curvature alone. EK-FAC is exact there, so that it is conjugate gradients for any change."""
    study = linear(0)
    fitted, reference = METHODS[name].make().fit(study), METHODS["ConjugateGradient"].make().fit(study)
    for kind, change in changes(study).items():
        found, true = vector(fitted.parameter_change(**change)), quadratic(study, change)
        assert relative(found, vector(reference.parameter_change(**change))) < 1e-9
        error = relative(found, true)
        assert error < 1e-9 if kind == "relabel" else 1e-3 < error < 0.2, error


def test_new_labels_leave_the_curvature_of_cross_entropy_alone():
    """With outputs that are linear in the weights, so that a Newton step is the influence function."""
    study = plain(0)
    one, two, three = (
        vector(METHODS[n].make().fit(study).parameter_change(**changes(study)["relabel"]))
        for n in ("ConjugateGradient", "FIF", "GIF")
    )
    assert relative(two, one) < 1e-10
    assert relative(three, one) < 1e-9


@kinds
def test_samgif_against_unrolled_training(kind):
    """Ten short steps of SAM on all images, repeated with the changed ones."""
    study, steps, rate = plain(0), 10, 0.05
    model = ic.models.build("mlp", inputs=5, classes=CLASSES, hidden=1, depth=0).double()
    start = vector({n: p.detach().clone() for n, p in model.named_parameters()})
    recipe = {"epochs": steps, "learning_rate": rate, "momentum": 0.0, "checkpoints": steps, "batch_size": SIZE}
    trajectory = ic.training.fit(model, study.train, optimizer="sam", rho=RHO, weight_decay=DECAY, **recipe)
    trained = ic.Study(model, study.train, study.test, trajectory=trajectory, weight_decay=DECAY)
    change = changes(study)[kind]

    def unrolled(change: Changes) -> Tensor:
        labels, weights = asked(study, change)
        of, row = slope(study.replaced(train=study.train.with_labels(labels)), RHO), start
        for step in range(steps):
            row = row - rate * ic.training.cosine(step / steps) * of(row, weights / SIZE)
        return row

    assert relative(unrolled({}), own(trained)) < 1e-9
    found = vector(SAMGIF().fit(trained).parameter_change(**change))
    assert relative(found, unrolled(change) - unrolled({})) < 0.15


if __name__ == "__main__":
    typer.run(main)
