"""What the doctor predicts against what it was: processor seconds and peak memory, each in a process of its own.

    OMP_WAIT_POLICY=PASSIVE python -m tests.benchmarks.doctor

Three studies: the bundled digits, a multilayer perceptron on them, and colour pictures of 32 pixels in PNG files with
a wider network. Passes are timed once for each study. Each estimator is then fitted and asked once in a new process, in
which torch's own first steps are made before, for the influence on ten test images, or for what else it gives. Memory
is the process's high-water mark above what it had with the study loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import influence_core as ic
from influence_core.doctor.resources import ASKED, TESTS
from influence_core.estimators.calibration import calibrated, predicted
from influence_core.measure import measure

NAMES = [
    "tracin", "tracinrp", "randproj", "trak", "ekfac", "datainf", "lastlayer", "loss", "el2n", "forgetting",
    "confidentlearning", "deepknn", "laplace", "samgif", "arnoldi", "conjugategradient", "gexlinear", "vm",
]  # fmt: skip


def studies(folder: Path) -> dict[str, Path]:
    """The three studies, saved."""
    digits = ic.demo.digits()
    digits.save(folder / "digits")
    torch.manual_seed(0)
    model = ic.models.build("mlp", inputs=64, classes=10, hidden=128, depth=2)
    trajectory = ic.training.fit(model, digits.train, epochs=8, batch_size=64, learning_rate=0.05, checkpoints=3)
    ic.Study(model, digits.train, digits.test, digits.validation, trajectory, name="perceptron").save(folder / "mlp")
    _pictures(folder / "pictures")
    data = ic.data.image_folder(folder / "pictures", mean=(0.4,) * 3, std=(0.25,) * 3)
    parts = ic.data.split(data, validation=0.15, test=0.15)
    model = ic.models.build("small_cnn", channels=3, classes=4, width=32)
    trajectory = ic.training.fit(model, parts.train, epochs=4, batch_size=64, learning_rate=0.05, checkpoints=2)
    ic.Study(model, parts.train, parts.test, parts.validation, trajectory, name="pictures").save(folder / "colour")
    return {name: folder / name for name in ("digits", "mlp", "colour")}


def _pictures(root: Path, each: int = 300) -> None:
    draw = np.random.default_rng(0)
    for number in range(4 * each):
        pixels = draw.integers(0, 160, (32, 32, 3))
        pixels[:, 8 * (number % 4) : 8 * (number % 4) + 8] += 60
        folder = root / str(number % 4)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")


def run(path: str, name: str) -> None:
    """Fit and ask once, in this process, and print what it took."""
    study = ic.Study.load(path)
    study.outputs("test")
    sample = torch.zeros(2, 1), torch.zeros(2, dtype=torch.long)
    ic.gradients.squared_norms(torch.nn.Linear(1, 2).eval(), ic.losses.cross_entropy, sample)
    ic.training.fit(torch.nn.Linear(1, 2), torch.utils.data.TensorDataset(*sample), epochs=1)
    estimator = ic.estimators.get(name)
    what = next(one for one in ASKED if one in estimator.gives())
    begun = time.process_time()
    with measure() as cost:
        estimator.fit(study)
        getattr(estimator, what)(*([list(range(TESTS))] if what in ("influence", "parameter_change") else []))
    print(json.dumps([time.process_time() - begun, cost.peak_memory_mib]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=NAMES)
    parser.add_argument("--run", nargs=2, metavar=("STUDY", "ESTIMATOR"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.run:
        run(*arguments.run)
        return
    print("| study | estimator | seconds: predicted | real | error | MiB: predicted | real | error |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    errors: dict[str, list[float]] = {"seconds": [], "MiB": []}
    with tempfile.TemporaryDirectory() as folder:
        for title, path in studies(Path(folder)).items():
            study = ic.Study.load(path)
            calibration = calibrated(study, again=True)
            for name in arguments.only:
                estimator = ic.estimators.get(name)
                what = next(one for one in ASKED if one in estimator.gives())
                if estimator.missing(study, what):
                    continue
                guess = predicted(study, estimator, what, TESTS, calibration)
                command = [sys.executable, "-m", "tests.benchmarks.doctor", "--run", str(path), name]
                done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=True)
                seconds, memory = json.loads(done.stdout.strip().splitlines()[-1])
                if guess.seconds is None or guess.memory_mib is None:
                    continue
                cells = [title, name]
                for key, expected, real in (("seconds", guess.seconds, seconds), ("MiB", guess.memory_mib, memory)):
                    error = expected / real - 1
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
