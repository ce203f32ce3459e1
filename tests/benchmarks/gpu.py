"""The engine and the estimators on a GPU: whether they are right there, then how fast, beside other packages.

    python -m tests.benchmarks.gpu                                        # all parts, on cuda
    python -m tests.benchmarks.gpu --part engine --part contract
    python -m tests.benchmarks.gpu --device cpu --share 0.01 --repeats 1  # a trial where there is no GPU

``engine``: inner products and squared norms of five kinds of models in float64, against
``torch.func`` on the same device and against this package on the processor. ``contract``: ``check_estimator`` for
every estimator, its models on the device. ``speed``: ResNet-18 on pictures of 32 pixels (5,000 against 200) and
ViT-B/16 on 224 (500 against 20), random weights, float32: inner products of all gradients, and EK-FAC's factors and
scores, beside plain passes, ``torch.func`` and kronfluence (extra ``bench``); the peak is what torch has allocated on
the device. Ends with 1 where something disagrees.
"""

from __future__ import annotations

import copy
import gc
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core._torchvision import torchvision
from influence_core.gradients import inner_products, squared_norms
from influence_core.testing import CheckFailed, check_estimator
from tests import models_for_tests as models
from tests.benchmarks.contenders import (
    kronfluence_ekfac,
    kronfluence_products,
    ours_products_without_norms,
    plain,
    vmap_products,
)
from tests.benchmarks.works import Work, losses
from tests.estimator_settings import own_estimators, quick

PARTS = ("engine", "contract", "speed")
EXACT, SINGLE = 1e-10, 1e-3
"""Deviations from a reference, over its largest entry, that are rounding in float64, and in float32."""
MIB = 2**20

KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "small CNN": (models.small_cnn, (1, 28, 28), 10),
    "ResNet-18, 8 wide": (lambda: models.resnet18(8), (3, 32, 32), 10),
    "VGG-11, 8 wide": (lambda: models.vgg11(8), (3, 32, 32), 10),
    "vision transformer": (models.ViT, (3, 8, 8), 5),
    "MLP-Mixer": (models.Mixer, (3, 8, 8), 5),
}
"""Kind of model -> model, shape of an image, classes."""


def work_of(model: nn.Module, shape: tuple[int, ...], classes: int, sizes: tuple[int, int, int], device: str) -> Work:
    """Images of noise for a model.

    Args:
        model: with random weights.
        shape: of an image.
        classes: labels.
        sizes: samples, queries, and the batch.
        device: for all of it.

    Returns:
        The work, in the model's own precision.
    """
    count, asked, batch = sizes
    kind = next(model.parameters()).dtype
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count + asked, *shape, generator=generator, dtype=kind).to(device)
    labels = torch.randint(0, classes, (count + asked,), generator=generator).to(device)
    train, queries = (inputs[:count], labels[:count]), (inputs[count:], labels[count:])
    return Work(model.eval().to(device), train, queries, batch, "")


def deviation(found: Tensor, reference: Tensor) -> float:
    """The largest, over the reference's largest entry."""
    found, reference = found.detach().cpu().double(), reference.detach().cpu().double()
    return float((found - reference).abs().max() / reference.abs().max())


def engine(device: str) -> Iterator[tuple[list[str], bool]]:
    """Each kind of model against ``torch.func`` and against the processor."""
    for name, (make, shape, classes) in KINDS.items():
        torch.manual_seed(0)
        model = make().double()
        there = work_of(model, shape, classes, (24, 5, 8), device)
        here = work_of(copy.deepcopy(model), shape, classes, (24, 5, 8), "cpu")
        found = [inner_products(w.model, losses, w.train, w.queries, batch_size=8) for w in (there, here)]
        norms = [squared_norms(w.model, losses, w.train, batch_size=8) for w in (there, here)]
        try:
            by_func = deviation(found[0], vmap_products(there))
        except RuntimeError as error:  # torch.func does not take every model
            by_func, name = 0.0, f"{name} (torch.func: {str(error).splitlines()[0][:50]})"
        worst = [by_func, deviation(*found), deviation(*norms)]
        yield [name, *(f"{value:.1e}" for value in worst)], max(worst) < EXACT


def contract(device: str) -> Iterator[tuple[list[str], bool]]:
    """Every estimator's checks."""
    for cls in own_estimators():
        try:
            report = check_estimator(quick(cls), tolerance=1e-4, device=device)
        except CheckFailed as failed:
            yield [cls.name, str(failed).replace("\n", " ")], False
        else:
            passed = sum(said == "passed" for said in report.values())
            yield [cls.name, f"{passed} passed, {len(report) - passed} do not apply"], True


def ours_ekfac(work: Work) -> Tensor:
    """Factors and scores of every query."""
    train, queries = (TensorDataset(*(t.cpu() for t in data)) for data in (work.train, work.queries))
    return ic.estimators.EKFAC().fit(ic.Study(work.model, train, queries)).influence().values


def measured(
    call: Callable[[Work], Tensor | None], work: Work, repeats: int, device: str
) -> tuple[float, float, float]:
    """Median seconds, what is allocated at most in MiB, and seconds of the first run, with its warming up."""
    seconds: list[float] = []
    on_gpu = torch.device(device).type == "cuda"
    for _ in range(repeats + 1):
        gc.collect()
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        begun = time.perf_counter()
        call(work)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    peak = (torch.cuda.max_memory_allocated() - before) / MIB if on_gpu else float("nan")
    return statistics.median(seconds[1:]), peak, seconds[0]


def speed(device: str, share: float, repeats: int) -> Iterator[tuple[list[str], bool]]:
    """Ours beside the others on two networks."""
    torch.manual_seed(0)
    networks = (
        ("ResNet-18", models.resnet18(), (3, 32, 32), (5000, 200, 128)),
        ("ViT-B/16", torchvision().models.vit_b_16(weights=None, num_classes=10), (3, 224, 224), (500, 20, 16)),
    )
    calls: dict[str, Callable[[Work], Tensor | None]] = {
        "plain passes": plain,
        "inner products, influence_core": ours_products_without_norms,
        "inner products, kronfluence": kronfluence_products,
        "inner products, torch.func": vmap_products,
        "EK-FAC, influence_core": ours_ekfac,
        "EK-FAC, kronfluence": kronfluence_ekfac,
    }
    for title, model, shape, (count, asked, batch) in networks:
        sizes = (max(2 * batch, round(share * count)), max(2, round(share * asked)), batch)
        work = work_of(model, shape, 10, sizes, device)
        base = float("nan")
        reference: Tensor | None = None
        for name, call in calls.items():
            row = [f"{title}, {sizes[0]:,} x {sizes[1]}", name]
            try:
                middle, peak, first = measured(call, work, repeats, device)
                result = call(work)
            except ImportError as error:
                yield [*row, *["-"] * 4, f"{error.name} is not installed"], True
                continue
            except (RuntimeError, ic.InfluenceError) as error:
                yield [*row, *["-"] * 4, str(error).splitlines()[0][:80]], not name.endswith("influence_core")
                continue
            note, fine = "", True
            if name == "plain passes":
                base = middle
            elif name.startswith("inner") and result is not None:
                if reference is None:
                    reference = result
                elif "torch.func" not in name:  # which counts normalisation layers as well
                    error = deviation(result, reference)
                    note, fine = f"deviates by {error:.1e}", error < SINGLE
            yield [*row, f"{middle:.2f}", f"{middle / base:.2f}", f"{peak:,.0f}", f"{first:.2f}", note], fine


HEADS = {
    "engine": ("model", "against torch.func", "against the processor", "squared norms, likewise"),
    "contract": ("estimator", "checks"),
    "speed": ("network", "", "s", "x plain", "peak MiB", "first run, s", "remark"),
}


def main(
    part: Annotated[list[str] | None, typer.Option(help=f"{', '.join(PARTS)}; all by default.")] = None,
    device: Annotated[str, typer.Option(help="Of the models.")] = "cuda",
    share: Annotated[float, typer.Option(help="Of the images of the speed part.")] = 1.0,
    repeats: Annotated[int, typer.Option(help="Of each call, after one that warms up.")] = 3,
) -> None:
    """Print a table for each part."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("there is no CUDA device here; --device cpu tries the program itself")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 is meant
    where = torch.cuda.get_device_name() if torch.device(device).type == "cuda" else device
    typer.echo(f"torch {torch.__version__}, {where}")
    if wrong := set(part or ()) - set(PARTS):
        raise typer.BadParameter(f"there is no part {', '.join(sorted(wrong))}; choose of {', '.join(PARTS)}")
    sound = True
    for one in part or PARTS:
        rows = {"engine": engine, "contract": contract}.get(one, partial(speed, share=share, repeats=repeats))(device)
        typer.echo(f"\n| {' | '.join(HEADS[one])} |\n|{'---|' * len(HEADS[one])}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for row, fine in rows:
                sound &= fine
                typer.echo(f"| {' | '.join(row)} |{'' if fine else ' DISAGREES'}")
    if not sound:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
