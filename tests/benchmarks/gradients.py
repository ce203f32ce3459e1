"""Time per-sample gradients against plain training steps and against other libraries.

    python -m tests.benchmarks.gradients                    # all tasks on work A
    python -m tests.benchmarks.gradients --work B --task T1 --repeats 3
    python -m tests.benchmarks.gradients --samples 500 --queries 50 --skip trak

Every run is a process of its own, so that one contender's memory settings and caches do not help or hurt another.
Repeats go round all contenders, so that a busy machine hits everybody; the table gives medians. ``x plain`` is the
time divided by that of one ordinary forward and backward pass over the same N + M samples. Where two projections are
compared, ``error`` is the root-mean-square deviation of inner products from the exact ones, relative to the product of
norms; elsewhere it is the deviation from ours that 99 % of entries stay below, relative to the largest entry: in single
precision the few samples with a tie in a pooling window may go one way or the other.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time

import torch
from torch import Tensor

from tests.benchmarks.contenders import (
    TASKS,
    ours_norms,
    ours_products,
    ours_products_without_norms,
    plain,
    vmap_norms,
)
from tests.benchmarks.works import Work, make

AGREEMENT = 1e-3
WARM_UP = 2


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", choices=["A", "B"], default="A", help="small CNN, or ResNet-18")
    parser.add_argument("--task", action="append", help="beginning of a task's name; may be repeated")
    parser.add_argument("--only", action="append", help="part of a contender's name; may be repeated")
    parser.add_argument("--skip", action="append", default=[], help="part of a contender's name; may be repeated")
    parser.add_argument("--samples", type=int, help="N, if not the work's own")
    parser.add_argument("--queries", type=int, help="M, if not the work's own")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--limit", type=float, default=900.0, help="seconds after which a run is given up")
    parser.add_argument("--run", nargs=2, metavar=("TASK", "CONTENDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.run:
        print(json.dumps(_run(options)))
        return
    print(f"work {options.work}, {options.threads} threads, torch {torch.__version__}, {options.repeats} repeats\n")
    for task, contenders in TASKS.items():
        if options.task and not any(task.startswith(beginning) for beginning in options.task):
            continue
        names = [
            name
            for name in contenders
            if (not options.only or any(part in name for part in options.only))
            and not any(part in name for part in options.skip)
        ]
        _compare(options, task, names)


def _compare(options: argparse.Namespace, task: str, names: list[str]) -> None:
    """Run all contenders of a task in turn, and print its table."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ["plain", *names]}
    notes: dict[str, str] = {}
    for _ in range(options.repeats):
        for name in runs:
            if name in notes:
                continue
            outcome = _in_a_process(options, task, name)
            if "note" in outcome:
                notes[name] = outcome["note"]
            else:
                runs[name].append(outcome)
    print(f"{task}\n{'':28}{'seconds':>9}{'x plain':>9}{'CPU x plain':>13}{'peak MiB':>10}{'error':>10}")
    for name, outcomes in runs.items():
        if not outcomes:
            print(f"{name:28}  skipped: {notes.get(name, 'did not finish')}")
            continue
        middle = {key: statistics.median(o[key] for o in outcomes) for key in outcomes[0]}
        pairs = list(zip(outcomes, runs["plain"], strict=False))
        ratio = statistics.median(o["seconds"] / p["seconds"] for o, p in pairs)
        cpu = statistics.median(o["cpu"] / p["cpu"] for o, p in pairs)
        error = f"{middle['error']:10.1e}" if name != "plain" else f"{'':10}"
        disagrees = middle["error"] > AGREEMENT and not task.startswith("T2")
        warning = "  DISAGREES" if disagrees else ""
        print(f"{name:28}{middle['seconds']:9.2f}{ratio:9.2f}{cpu:13.2f}{middle['peak']:10.0f}{error}{warning}")
    print(flush=True)


def _in_a_process(options: argparse.Namespace, task: str, name: str) -> dict:  # type: ignore[type-arg]
    command = [sys.executable, "-m", "tests.benchmarks.gradients", "--work", options.work, "--run", task, name]
    command += ["--threads", str(options.threads)]
    for option in ("samples", "queries"):
        if getattr(options, option):
            command += [f"--{option}", str(getattr(options, option))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.limit, check=False)
    except subprocess.TimeoutExpired:
        return {"note": f"not finished after {options.limit:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        error = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"note": error[:90]}
    return json.loads(lines[-1])


def _run(options: argparse.Namespace) -> dict:  # type: ignore[type-arg]
    """One contender: warm up on a little, time the whole, compare."""
    task, name = options.run
    contender = plain if name == "plain" else TASKS[task][name]
    work = make(options.work, options.samples, options.queries)
    try:
        contender(work.cut(WARM_UP * work.batch, min(work.batch, len(work.queries[0]))))
    except ImportError as error:
        return {"note": f"{error.name or error} is not installed"}
    settled = _settled_memory()
    begun, cpu = time.perf_counter(), time.process_time()
    result = contender(work)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    peak = _memory("VmHWM") - settled
    error = 0.0 if result is None else _error(task, name, work, result)
    return {"seconds": seconds, "cpu": cpu, "peak": peak, "error": error}


def _settled_memory() -> float:
    """Resident MiB after everything freed went back to the system; the peak counts from here on."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _memory("VmRSS")


def _memory(field: str) -> float:
    """A line of the kernel's notes about this process, in MiB."""
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith(field))
    return int(line.split()[1]) / 1024


def _error(task: str, name: str, work: Work, result: Tensor) -> float:
    """How far the result is from a reference by another way."""
    if task.startswith("T2"):
        exact = ours_products(work)
        left, right = ours_norms(work), ours_norms(Work(work.model, work.queries, work.train, work.batch, work.last))
        scale = left.sqrt()[:, None] * right.sqrt()
        return float(((result - exact) / scale).square().mean().sqrt())
    first = next(iter(TASKS[task].values()))
    if task.startswith("T1") and ("captum" in name or "kronfluence" in name):
        first = ours_products_without_norms  # these peers leave normalisation layers out
    if task == "T4 squared norms":
        reference = vmap_norms(work.cut(2 * work.batch, 1)) if name == "influence_core" else ours_norms(work)
    else:
        reference = first(work)
    result = result[: len(reference)]
    deviations = ((result - reference).abs() / reference.abs().max()).flatten()
    return float(deviations.kthvalue(max(1, round(0.99 * len(deviations)))).values)


if __name__ == "__main__":
    main()
