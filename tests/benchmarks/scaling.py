"""How seconds and memory of every estimator grow with the number of training images.

    OMP_WAIT_POLICY=PASSIVE python -m tests.benchmarks.scaling
    python -m tests.benchmarks.scaling --estimators tracin ekfac --sizes 1000 4000

Random images of 8 x 8 pixels and the small CNN with random weights, at N training images against 200 queries; what
solves for each query gets 4. Every estimator runs at every size in a process of its own. It is fitted and asked for the
influence, or for mislabel scores where it gives no influence; iterations, trainings and members are few, as in
``SETTINGS``: what they cost is linear in their number. A size that is expected to take longer than ``--limit`` is left
out, and told so.

``exponent`` is that of the least-squares line of log processor seconds, of fit and call, over log N: 1 is linear. ``x
[N, M]`` is what the call holds besides what it also holds for one query, in units of a result [N, M]: a result alone
is 1. Where there are several sizes it is the slope over N between the least and the largest, so that what does not
depend on N is not in it.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import torch

import influence_core as ic
from influence_core.training import Checkpoint, Trajectory
from tests.benchmarks.gauges import spent
from tests.estimator_settings import own_estimators

SIZES = (1_000, 4_000, 16_000, 64_000)
QUERIES, SOLVED = 200, 4
VALIDATION, CHECKPOINTS, SIDE, CLASSES = 500, 2, 8, 10
SMALLEST = 4.0
"""MiB of [N, M] below which nothing can be said about copies of it."""

SETTINGS: dict[str, dict[str, Any]] = {
    "arnoldi": {"steps": 20, "rank": 10},
    "conjugategradient": {"max_iterations": 5},
    "confidentlearning": {"epoch_share": 0.1},
    "el2n": {"runs": 1},
    "gex": {"members": 4, "epochs": 0.5},
    "gexlinear": {"members": 4, "epochs": 0.5},
    "laplace": {"samples": 4},
    "lissa": {"steps": 5},
    "samhif": {"max_iterations": 5},
    "samif": {"max_iterations": 5},
    **{name: {"steps": 100} for name in ("fvm", "labelcontrast", "tunedloss", "vm")},
}


def study(size: int, queries: int) -> ic.Study:
    """N random images with random labels, and random weights at every checkpoint."""
    torch.manual_seed(0)

    def data(count: int) -> torch.utils.data.TensorDataset:
        return torch.utils.data.TensorDataset(torch.randn(count, 1, SIDE, SIDE), torch.randint(CLASSES, (count,)))

    models = [ic.models.small_cnn(classes=CLASSES).eval() for _ in range(CHECKPOINTS)]
    trajectory = Trajectory([Checkpoint(i, float(i), 0.1, 0.1, 0.05, m.state_dict()) for i, m in enumerate(models, 1)])
    return ic.Study(models[-1], data(size), data(queries), data(VALIDATION), trajectory, weight_decay=1e-3)


def asked(name: str) -> tuple[str, int]:
    """What an estimator is asked for, and for how many queries."""
    cls = {one.name: one for one in own_estimators()}[name]
    if "influence" in cls.gives():
        return "influence", SOLVED if cls.solves_each_query else QUERIES
    return "mislabel_scores", 0


def estimators() -> list[str]:
    """All that give the influence or mislabel scores."""
    return [cls.name for cls in own_estimators() if {"influence", "mislabel_scores"} & set(cls.gives())]


def run(name: str, size: int) -> dict[str, float]:
    """Fit and call, measured in this process."""
    warnings.simplefilter("ignore")
    what, queries = asked(name)
    small = ic.estimators.get(name, **SETTINGS.get(name, {})).fit(study(100, 2))
    getattr(small, what)()  # what torch does once
    of = study(size, max(1, queries))
    fresh = ic.estimators.get(name, **SETTINGS.get(name, {}))
    with spent() as fit:
        fresh.fit(of)
    one = 0.0
    if what == "influence":
        with spent() as single:
            fresh.influence([0])
        one = single.peak
    with spent() as call:
        getattr(fresh, what)()
    seconds, cpu = fit.seconds + call.seconds, fit.cpu + call.cpu
    return {"seconds": seconds, "cpu": cpu, "peak": max(fit.peak, call.peak), "more": call.peak - one}


def apart(name: str, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """The same in a process of its own; a note where there is nothing."""
    command = [sys.executable, "-m", "tests.benchmarks.scaling", "--threads", str(options.threads)]
    command += ["--run", name, str(size)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=3 * options.limit, check=False)
    except subprocess.TimeoutExpired:
        return {"note": f"not finished after {3 * options.limit:.0f} s"}
    if done.returncode:
        return {"note": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1][:80]}
    return json.loads(done.stdout.splitlines()[-1])


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Slope of the least-squares line of log seconds over log N."""
    x, y = [math.log(n) for n in sizes], [math.log(s) for s in seconds]
    middle, level = sum(x) / len(x), sum(y) / len(y)
    return sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)


def copies(found: dict[int, dict[str, float]], queries: int) -> float | None:
    """What is held in units of [N, M], from what more queries take more; ``None`` where that is too little to see."""
    least, largest = min(found), max(found)
    more = found[largest]["more"] - (found[least]["more"] if least < largest else 0.0)
    unit = (largest - (least if least < largest else 0)) * (queries - 1) * torch.float32.itemsize / 2**20
    return more / unit if unit >= SMALLEST else None


def line(name: str, options: argparse.Namespace) -> str:
    """A row of the table."""
    what, queries = asked(name)
    found: dict[int, dict[str, float]] = {}
    cells, note = [], ""
    for size in sorted(options.sizes):
        last = max(found, default=None)
        if not note and last is not None and found[last]["seconds"] * size / last > options.limit:
            note = f"from {size:,} on longer than {options.limit:.0f} s"
        outcome = {"note": note} if note else apart(name, size, options)
        if "note" in outcome:
            note = outcome["note"]
            cells.append(f"{'-':>22}")
        else:
            found[size] = outcome
            cells.append(f"{outcome['seconds']:8.2f}{outcome['cpu']:8.2f}{outcome['peak']:6.0f}")
    grows = f"{exponent(list(found), [f['cpu'] for f in found.values()]):.2f}" if len(found) > 1 else "-"
    held = copies(found, queries) if found and what == "influence" else None
    kept = "-" if held is None else f"{held:.2f}"
    return f"{name:18}{queries or '-':>4}{''.join(cells)}{grows:>10}{kept:>10}  {note}".rstrip()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--estimators", nargs="*", choices=estimators(), help="all by default")
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES), help="numbers of training images")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that one run may be expected to take")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--run", nargs=2, metavar=("NAME", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.run:
        print(json.dumps(run(options.run[0], int(options.run[1]))))
        return
    print(
        f"torch {torch.__version__}, {options.threads} thread(s); seconds, processor seconds and peak MiB at each N\n"
    )
    heads = "".join(f"{f'N = {size:,}':>22}" for size in sorted(options.sizes))
    print(f"{'':18}{'M':>4}{heads}{'exponent':>10}{'x [N, M]':>10}")
    for name in options.estimators or estimators():
        print(line(name, options), flush=True)


if __name__ == "__main__":
    main()
