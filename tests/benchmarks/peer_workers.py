"""The calls that ``tests.benchmarks.peers`` compares: each runs in a process of its own, on tensors read from a file.

Nothing but torch and the package that is measured is imported, so that a peer may live in an environment that could
not hold ``influence_core``. Every function returns scores ``[N, M]`` in the scale of its own package; ``Call.scale``
turns them into ours, by the packages' definitions and not from the numbers.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

ROOT = Path(__file__).resolve().parents[2]
RANK, STEPS = 20, 200
BATCH = 250
PLAIN = "plain"
KRYLOV_TOLERANCE = 1e-8
LONG = 10.0
"""Seconds after which a call is not repeated."""
MISSING = 3
"""Exit status of a process whose package is not installed."""


@dataclass(frozen=True)
class Problem:
    """A trained network without batch normalisation, its checkpoints and data, and an absolute damping."""

    states: list[dict[str, Tensor]]
    rates: list[float]
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    damping: float

    def model(self) -> nn.Module:
        """The trained network."""
        model = network()
        model.load_state_dict(self.states[-1])
        return model.eval()

    def sets(self) -> tuple[TensorDataset, TensorDataset]:
        """Training and test images."""
        return TensorDataset(*self.train), TensorDataset(*self.test)


def network() -> nn.Module:
    """Two convolutions and a linear layer, smooth, so that the Hessian is that of any other package to rounding."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(6, 12, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(48, 10),
    ).double()


def ours(problem: Problem, name: str, **options: Any) -> Tensor:
    import influence_core as ic

    if not Path(ic.__file__).is_relative_to(ROOT):
        raise RuntimeError(f"influence_core is that of {ic.__file__}, not of this checkout")
    from influence_core.curvature import mean_diagonal
    from influence_core.training import Checkpoint, Trajectory

    train, test = problem.sets()
    pairs = enumerate(zip(problem.states, problem.rates, strict=True))
    trajectory = Trajectory([Checkpoint(i + 1, i + 1.0, rate, rate, 0.0, state) for i, (state, rate) in pairs])
    study = ic.Study(problem.model(), train, test, trajectory=trajectory)
    if "curvature" in options:  # ours is relative to the mean diagonal
        options["damping"] = problem.damping / mean_diagonal(study.model, study.loss, study.train)
    return ic.estimators.get(name, **options).fit(study).influence().values


def plain(problem: Problem) -> Tensor:
    """Forward and backward over all images, as in training: what the others' times are multiples of."""
    model = problem.model()
    for inputs, labels in (problem.test, problem.train):
        for x, y in zip(inputs.split(BATCH), labels.split(BATCH), strict=True):
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
    return torch.empty(0)


def dense(problem: Problem) -> Tensor:
    """The inverse of the dense Hessian from ``torch.func``: knows nothing of any package."""
    model = problem.model()
    start = dict(model.named_parameters())
    flat = torch.cat([p.detach().flatten() for p in start.values()])

    def losses(vector: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        parts = vector.split([p.numel() for p in start.values()])
        state = {name: part.view_as(p) for (name, p), part in zip(start.items(), parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, state, (inputs,)), labels, reduction="none")

    gradient = torch.func.grad(lambda v: losses(v, *problem.train).mean())
    matrix = torch.func.jacrev(gradient, chunk_size=32)(flat) + problem.damping * torch.eye(len(flat), dtype=flat.dtype)
    train, test = (torch.func.jacrev(lambda v, d=d: losses(v, *d))(flat) for d in (problem.train, problem.test))
    return train @ torch.linalg.solve(matrix, test.T)


def captum_tracin(problem: Problem) -> Tensor:
    from captum.influence import TracInCP

    def load(model: nn.Module, index: str) -> float:
        model.load_state_dict(problem.states[int(index)])
        return problem.rates[int(index)]

    tracin = TracInCP(
        problem.model(),
        problem.sets()[0],
        [str(i) for i in range(len(problem.states))],
        load,
        loss_fn=nn.CrossEntropyLoss(reduction="sum"),
        batch_size=250,
        sample_wise_grads_per_batch=True,
    )
    return tracin.influence(problem.test).T


def captum_arnoldi(problem: Problem, rank: int, steps: int) -> Tensor:
    from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction

    size = len(problem.train[0])
    arnoldi = ArnoldiInfluenceFunction(
        problem.model(),
        DataLoader(problem.sets()[0], batch_size=250),
        "",
        lambda model, path: 1.0,
        loss_fn=nn.CrossEntropyLoss(reduction="sum"),
        sample_wise_grads_per_batch=True,
        projection_dim=rank,
        arnoldi_dim=steps + 1,  # the last vector is left out of the basis
        arnoldi_tol=KRYLOV_TOLERANCE,
        hessian_reg=problem.damping * size,
        hessian_inverse_tol=1e-12,
    )
    return arnoldi.influence(problem.test).T


def _dattri_task(problem: Problem, states: Any) -> Any:
    from dattri.task import AttributionTask

    model = problem.model()

    def loss(parameters: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        inputs, labels = data  # of a batch, or of one image without a batch axis
        return F.cross_entropy(
            torch.func.functional_call(model, parameters, (inputs.view(-1, 1, 8, 8),)), labels.flatten()
        )

    return AttributionTask(loss_func=loss, model=model, checkpoints=states)


def dattri_tracin(problem: Problem, projected: bool) -> Tensor:
    from dattri.algorithm.tracin import TracInAttributor

    task = _dattri_task(problem, problem.states)
    tracin = TracInAttributor(task, torch.tensor(problem.rates, dtype=torch.float64), normalized_grad=False)
    if not projected:
        tracin.projector_kwargs = None  # no argument of its constructor does that
    train, test = problem.sets()
    return tracin.attribute(DataLoader(train, batch_size=250), DataLoader(test, batch_size=len(test)))


def dattri_influence(
    problem: Problem, solver: str, batches: int = 1, tests: int | None = None, **options: Any
) -> Tensor:
    from dattri.algorithm import influence_function

    task = _dattri_task(problem, problem.states[-1])
    attributor = getattr(influence_function, f"IFAttributor{solver}")(task, regularization=problem.damping, **options)
    train, test = problem.sets()
    attributor.cache(DataLoader(train, batch_size=len(train) // batches))
    queries = DataLoader(test, batch_size=tests or len(test))
    return attributor.attribute(DataLoader(train, batch_size=len(train)), queries)


def kronfluence_ekfac(problem: Problem) -> Tensor:
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Classification(Task):
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

    double = torch.float64
    factors = FactorArguments(
        strategy="ekfac",
        use_empirical_fisher=True,
        activation_covariance_dtype=double,
        gradient_covariance_dtype=double,
        per_sample_gradient_dtype=double,
        lambda_dtype=double,
    )
    scores = ScoreArguments(
        damping_factor=None,  # 0.1 of the mean eigenvalue of each layer
        per_sample_gradient_dtype=double,
        precondition_dtype=double,
        score_dtype=double,
    )
    train, test = problem.sets()
    with tempfile.TemporaryDirectory() as folder:
        model = prepare_model(problem.model(), Classification())
        analyzer = Analyzer("peer", model, Classification(), cpu=True, disable_tqdm=True, output_dir=folder)
        analyzer.fit_all_factors("factors", train, per_device_batch_size=250, factor_args=factors)
        analyzer.compute_pairwise_scores(
            "scores",
            "factors",
            test,
            train,
            per_device_query_batch_size=len(test),
            per_device_train_batch_size=250,
            score_args=scores,
        )
        return analyzer.load_pairwise_scores("scores")["all_modules"].T


def pydvl_influence(problem: Problem, solver: str, **options: Any) -> Tensor:
    from pydvl.influence import torch as pydvl

    model = getattr(pydvl, solver)(problem.model(), F.cross_entropy, regularization=problem.damping, **options)
    fitted = model.fit(DataLoader(problem.sets()[0], batch_size=250))
    return fitted.influences(*problem.test, *problem.train).T


@dataclass(frozen=True)
class Call:
    """One row.

    Attributes:
        package: What it imports, and what an interpreter is chosen by.
        what: Shown in the table.
        run: The call.
        against: The row of ours that it is compared with.
        scale: What its scores are multiplied by to be ours; a function of N.
        note: Why it is expected to differ.
    """

    package: str
    what: str
    run: Callable[[Problem], Tensor]
    against: str = ""
    scale: Callable[[int], float] = lambda size: 1.0
    note: str = ""


def _over_n(size: int) -> float:
    return 1.0 / size


_HESSIAN = {"curvature": "hessian"}
CALLS: dict[str, Call] = {
    PLAIN: Call("torch", "plain forward and backward passes", plain),
    "tracin": Call("influence_core", "TracIn", functools.partial(ours, name="tracin")),
    "ekfac": Call(
        "influence_core",
        "EK-FAC, empirical Fisher",
        functools.partial(ours, name="ekfac", labels="empirical", damping=0.1),
    ),
    "cg": Call(
        "influence_core",
        "CG, Hessian",
        functools.partial(ours, name="conjugategradient", tolerance=1e-10, **_HESSIAN),
    ),
    "arnoldi": Call(
        "influence_core",
        f"Arnoldi, rank {RANK}",
        functools.partial(ours, name="arnoldi", rank=RANK, steps=STEPS, **_HESSIAN),
    ),
    "dense": Call("torch", "dense Hessian, solved", dense, "cg", _over_n),
    "captum-tracin": Call("captum", "TracInCP", captum_tracin, "tracin"),
    "dattri-tracin": Call(
        "dattri",
        "TracIn, projection taken out",
        functools.partial(dattri_tracin, projected=False),
        "tracin",
    ),
    "dattri-tracin-projected": Call(
        "dattri",
        "TracIn",
        functools.partial(dattri_tracin, projected=True),
        "tracin",
        note="it always projects gradients at random, to 512 dimensions",
    ),
    "kronfluence-ekfac": Call("kronfluence", "EK-FAC, empirical Fisher", kronfluence_ekfac, "ekfac", _over_n),
    "captum-arnoldi": Call(
        "captum",
        f"Arnoldi, rank {RANK}",
        functools.partial(captum_arnoldi, rank=RANK, steps=STEPS),
        "arnoldi",
    ),
    "dattri-explicit": Call(
        "dattri",
        "explicit, full batch",
        functools.partial(dattri_influence, solver="Explicit"),
        "cg",
        _over_n,
    ),
    "dattri-explicit-batches": Call(
        "dattri",
        "explicit, 4 batches",
        functools.partial(dattri_influence, solver="Explicit", batches=4),
        "cg",
        _over_n,
        "it adds up the inverses of the batches' matrices",
    ),
    "dattri-cg": Call(
        "dattri",
        "CG, 100 steps, full batch",
        functools.partial(dattri_influence, solver="CG", max_iter=100, tests=8),
        "cg",
        _over_n,
        "test images by eights: it takes about 1 GiB for each of them",
    ),
    "pydvl-direct": Call(
        "pydvl", "direct", functools.partial(pydvl_influence, solver="DirectInfluence"), "cg", _over_n
    ),
    "pydvl-cg": Call(
        "pydvl",
        "CG, all test images at once",
        functools.partial(pydvl_influence, solver="CgInfluence", rtol=1e-10, solve_simultaneously=True),
        "cg",
        _over_n,
    ),
}


def _measure() -> Any:
    """``influence_core/measure.py``, without the package around it."""
    path = ROOT / "influence_core" / "measure.py"
    spec = importlib.util.spec_from_file_location("measure", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["measure"] = module
    spec.loader.exec_module(module)
    return module.measure


def main(name: str, problem: str, output: str, repeats: int) -> None:
    """Run one call several times; its scores, best times and first peak of memory go to a file.

    The first run pays for imports and the first use of everything: it counts only where that cannot matter, since it
    took long, and where nothing else was asked for. Time is that of the processor: one thread, and others at work.
    """
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    call = CALLS[name]
    if importlib.util.find_spec(call.package) is None:
        sys.exit(MISSING)
    __import__(call.package)
    measure = _measure()
    given = Problem(**torch.load(problem, weights_only=True))
    seconds, wall, memory = [], [], None
    for _ in range(1 + repeats):
        with measure() as cost:
            start, begun = time.process_time(), time.perf_counter()
            scores = call.run(given)
            seconds.append(time.process_time() - start)
            wall.append(time.perf_counter() - begun)
        memory = cost.peak_memory_mib if memory is None else memory
        if seconds[-1] > LONG:
            break
    found: dict[str, Any] = {"scores": scores.detach().double(), "memory": -1.0 if memory is None else memory}
    found |= {"seconds": min(seconds[1:] or seconds), "wall": min(wall[1:] or wall)}
    torch.save(found | {"version": _version(call.package)}, output)


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version({"influence_core": "influence-core"}.get(package, package))
    except metadata.PackageNotFoundError:
        return "?"


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
