"""What the doctor predicts against what it was: processor seconds and peak memory, each in a process of its own.

    OMP_WAIT_POLICY=PASSIVE python -m tests.benchmarks.doctor

Three studies: the bundled digits, a multilayer perceptron on them, and colour pictures of 32 pixels in PNG files with
the small network. Passes are timed once for each study. Each estimator is then fitted and asked once in a new process,
with one thread, in which torch's own first steps are made before, for the influence on ten test images, or for what
else it gives. Memory is the process's high-water mark above what it had with the study loaded.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

import influence_core as ic
from influence_core.diagnosis.resources import ASKED, TESTS
from influence_core.estimators.calibration import calibrated, predicted
from influence_core.imports import complete_torch
from influence_core.measure import measure

T = TypeVar("T")

NAMES = [
    "tracin", "tracinrp", "randproj", "trak", "ekfac", "datainf", "lastlayer", "loss", "el2n", "forgetting",
    "confidentlearning", "deepknn", "laplace", "samgif", "arnoldi", "conjugategradient", "gexlinear", "vm",
]  # fmt: skip


def digits(folder: Path) -> None:
    ic.demo.digits().save(folder / "digits")


def perceptron(folder: Path) -> None:
    known = ic.demo.digits()
    torch.manual_seed(0)
    model = ic.models.build("mlp", inputs=64, classes=10, hidden=128, depth=2)
    trajectory = ic.training.fit(model, known.train, epochs=8, batch_size=64, learning_rate=0.05, checkpoints=3)
    ic.Study(model, known.train, known.test, known.validation, trajectory, name="mlp").save(folder / "mlp")


def colour(folder: Path) -> None:
    _pictures(folder / "pictures")
    data = ic.data.image_folder(folder / "pictures", mean=(0.4,) * 3, std=(0.25,) * 3)
    parts = ic.data.split(data, validation=0.15, test=0.15)
    model = ic.models.build("small_cnn", channels=3, classes=4, width=16)
    trajectory = ic.training.fit(model, parts.train, epochs=2, batch_size=64, learning_rate=0.05, checkpoints=2)
    study = ic.Study(model, parts.train, parts.test, parts.validation, trajectory, name="colour")
    study.save(folder / "colour", copy_data=True)


STUDIES = {"digits": digits, "mlp": perceptron, "colour": colour}


def _pictures(root: Path, each: int = 120) -> None:
    draw = np.random.default_rng(0)
    for number in range(4 * each):
        pixels = draw.integers(0, 160, (32, 32, 3))
        pixels[:, 8 * (number % 4) : 8 * (number % 4) + 8] += 60
        folder = root / str(number % 4)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")


def run(study: ic.Study, name: str) -> tuple[float, float]:
    """Fit and ask once, in this process: processor seconds, and memory beyond what there was."""
    sample = torch.zeros(2, 1), torch.zeros(2, dtype=torch.long)
    ic.gradients.squared_norms(torch.nn.Linear(1, 2).eval(), ic.losses.cross_entropy, sample)
    estimator = ic.estimators.get(name)
    what = asked(estimator)
    begun = time.process_time()
    with measure() as cost:
        estimator.fit(study)
        getattr(estimator, what)(*([list(range(TESTS))] if what in ("influence", "parameter_change") else []))
    return time.process_time() - begun, cost.peak_memory_mib or 0.0


def asked(estimator: ic.estimators.Estimator) -> str:
    return next(one for one in ASKED if one in estimator.gives())


def apart(work: Callable[..., T], *arguments: Any) -> T:
    """The same in a process of its own, which begins as this one is."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(work, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=NAMES)
    parser.add_argument("--study", nargs="*", default=list(STUDIES), choices=list(STUDIES))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # no threads yet: each process that begins as this one is can have its own
    complete_torch()
    print("| study | estimator | seconds: predicted | real | error | MiB: predicted | real | error |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    errors: dict[str, list[float]] = {"seconds": [], "MiB": []}
    with tempfile.TemporaryDirectory() as folder:
        for title in arguments.study:
            apart(STUDIES[title], Path(folder))
            study = ic.Study.load(Path(folder) / title)
            calibration = apart(calibrated, study, True)
            for name in arguments.only:
                estimator = ic.estimators.get(name)
                if estimator.missing(study, asked(estimator)):
                    continue
                guess = predicted(study, estimator, asked(estimator), TESTS, calibration)
                if guess.seconds is None or guess.memory_mib is None:
                    continue
                seconds, memory = apart(run, study, name)
                cells = [title, name]
                for key, expected, real in (("seconds", guess.seconds, seconds), ("MiB", guess.memory_mib, memory)):
                    error = expected / max(real, 1e-3) - 1
                    errors[key].append(abs(error))
                    cells += [f"{expected:.2g}" if expected < 100 else f"{expected:.0f}"]
                    cells += [f"{real:.2g}" if real < 100 else f"{real:.0f}", f"{error:+.0%}"]
                print(f"| {' | '.join(cells)} |", flush=True)
    for key, found in errors.items():
        print(
            f"{key}: median error {statistics.median(found):.0%}, worst {max(found):.0%}, of {len(found)}", flush=True
        )


if __name__ == "__main__":
    main()
