"""Time per-sample gradients against plain training steps and against other libraries.

    python -m tests.benchmarks.gradients                    # all tasks on work A
    python -m tests.benchmarks.gradients --work B --task T1 --repeats 3 --threads 1
    python -m tests.benchmarks.gradients --samples 500 --queries 50 --skip trak

Every run is a process of its own, so that one contender's memory settings and caches do not help or hurt another.
Repeats go round all contenders, so that a busy machine hits everybody; the table gives medians. ``seconds`` are those
of the clock, ``CPU s`` those of the processor, which other work on the machine hardly moves; ``x plain`` is either
divided by that of one ordinary forward and backward pass over the same N + M samples. The naive loop, one sample at a
time, is run on two cuts of the work; its numbers are those of the line through them at N. Results are compared before
any time is told: where two projections are, ``error`` is the root-mean-square deviation of inner products from the
exact ones, relative to the product of norms; elsewhere it is the deviation from ours that 99 % of entries stay below,
relative to the largest entry: in single precision the few samples with a tie in a pooling window may go one way or the
other. What disagrees is told with its error and without a time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.benchmarks.contenders import (
    NAIVE,
    TASKS,
    Contender,
    ours_norms,
    ours_products,
    ours_products_without_norms,
    plain,
    vmap_norms,
)
from tests.benchmarks.gauges import Spent, spent
from tests.benchmarks.works import Work, make

AGREEMENT = 1e-3
PROJECTED = 0.2
"""Error of projected products that is no mistake: about the root of 2 / k at the least accurate."""
WARM_UP = 2
CUTS = (64, 512)
"""Samples of the two cuts that a naive loop is timed on."""


@dataclass(frozen=True)
class Settings:
    """What to run.

    Attributes:
        work: "A" or "B".
        samples: N, if not the work's own.
        queries: M, if not the work's own.
        repeats: runs of every contender, of which the median counts.
        threads: of torch.
        limit: seconds after which a run is given up.
    """

    work: str = "A"
    samples: int | None = None
    queries: int | None = None
    repeats: int = 3
    threads: int = 1
    limit: float = 900.0


@dataclass(frozen=True)
class Row:
    """Medians of a contender, or why there are none.

    Attributes:
        name: of the contender; "plain" for ordinary passes.
        spent: seconds, processor seconds and MiB.
        ratio: seconds over those of plain passes.
        cpu_ratio: the same of the processor.
        error: deviation from a reference.
        note: why there is nothing, or what is special.
    """

    name: str
    spent: Spent | None = None
    ratio: float = 0.0
    cpu_ratio: float = 0.0
    error: float = 0.0
    note: str = ""


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
    given = vars(parser.parse_args())
    chosen, only, skip, one = (given.pop(name) for name in ("task", "only", "skip", "run"))
    settings = Settings(**given)
    torch.set_num_threads(settings.threads)
    if one:
        print(json.dumps(_run(settings, *one)))
        return
    print(
        f"work {settings.work}, threads: {settings.threads}, torch {torch.__version__}, repeats: {settings.repeats}\n"
    )
    for task, contenders in TASKS.items():
        if chosen and not any(task.startswith(beginning) for beginning in chosen):
            continue
        some = [n for n in contenders if not only or any(part in n for part in only)]
        _show(task, compare(settings, task, [n for n in some if not any(part in n for part in skip)]))


def compare(settings: Settings, task: str, names: list[str]) -> list[Row]:
    """Run plain passes and the contenders of a task in turn.

    Args:
        settings: what to run.
        task: name of the task.
        names: of its contenders.

    Returns:
        A row for each, plain passes first.
    """
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ["plain", *names]}
    notes: dict[str, str] = {}
    for _ in range(settings.repeats):
        for name in runs:
            if name not in notes:
                outcome = _in_a_process(settings, task, name)
                if "note" in outcome:
                    notes[name] = outcome["note"]
                else:
                    runs[name].append(outcome)
    return [_row(task, name, runs[name], runs["plain"], notes.get(name, "")) for name in runs]


def _row(task: str, name: str, outcomes: list[dict[str, float]], plain_ones: list[dict[str, float]], note: str) -> Row:
    if not outcomes or not plain_ones:
        return Row(name, note=note or "nothing to compare with")
    middle = {key: statistics.median(o[key] for o in outcomes) for key in outcomes[0]}
    pairs = list(zip(outcomes, plain_ones, strict=False))
    ratio, cpu_ratio = (statistics.median(o[key] / p[key] for o, p in pairs) for key in ("seconds", "cpu"))
    error = middle.pop("error")
    if error > (PROJECTED if task.startswith("T2") else AGREEMENT):
        return Row(name, error=error, note=f"DISAGREES: error {error:.1e}")
    if name == NAIVE:
        note = f"from cuts of {' and '.join(map(str, CUTS))} samples, scaled up to N"
    return Row(name, Spent(**middle), ratio, cpu_ratio, error, note)


def _show(task: str, rows: list[Row]) -> None:
    heads = f"{'seconds':>9}{'CPU s':>9}{'x plain':>9}{'CPU x plain':>13}{'peak MiB':>10}{'error':>10}"
    print(f"{task}\n{'':28}{heads}")
    for row in rows:
        if row.spent is None:
            print(f"{row.name:28}  skipped: {row.note}")
            continue
        error = f"{row.error:10.1e}" if row.name != "plain" else f"{'':10}"
        times = f"{row.spent.seconds:9.2f}{row.spent.cpu:9.2f}{row.ratio:9.2f}{row.cpu_ratio:13.2f}"
        print(f"{row.name:28}{times}{row.spent.peak:10.0f}{error}  {row.note}".rstrip())
    print(flush=True)


def _in_a_process(settings: Settings, task: str, name: str) -> dict:  # type: ignore[type-arg]
    command = [sys.executable, "-m", "tests.benchmarks.gradients", "--work", settings.work, "--run", task, name]
    command += ["--threads", str(settings.threads)]
    for option in ("samples", "queries"):
        if getattr(settings, option):
            command += [f"--{option}", str(getattr(settings, option))]
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ | {"OMP_NUM_THREADS": str(settings.threads)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=settings.limit, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"note": f"not finished after {settings.limit:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        error = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"note": error[:90]}
    return json.loads(lines[-1])


def _run(settings: Settings, task: str, name: str) -> dict:  # type: ignore[type-arg]
    """One contender: warm up on a little, time the whole, compare."""
    contender = plain if name == "plain" else TASKS[task][name]
    work = make(settings.work, settings.samples, settings.queries)
    try:
        contender(work.cut(WARM_UP * work.batch, min(work.batch, len(work.queries[0]))))
    except ImportError as error:
        return {"note": f"{error.name or error} is not installed"}
    if name == NAIVE:
        cost, result = _scaled_up(contender, work)
    else:
        with spent() as cost:
            result = contender(work)
    return cost.facts() | {"error": 0.0 if result is None else _error(task, name, work, result)}


def _scaled_up(contender: Contender, work: Work) -> tuple[Spent, Tensor | None]:
    """What all samples would take, by two cuts of them; and the result of the larger cut."""
    size, queries = len(work.train[0]), len(work.queries[0])
    few, many = (min(count, size) for count in CUTS)
    with spent() as short:
        result = contender(work.cut(few, queries))
    if many == few:
        return short, result
    with spent() as long:
        result = contender(work.cut(many, queries))
    more = (size - many) / (many - few)
    seconds, cpu = (b + max(0.0, b - a) * more for a, b in ((short.seconds, long.seconds), (short.cpu, long.cpu)))
    return Spent(seconds, cpu, long.peak), result


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
    if name == NAIVE:
        reference = reference[: len(result)]  # it was run on a cut
    deviations = ((result - reference).abs() / reference.abs().max()).flatten()
    return float(deviations.kthvalue(max(1, round(0.99 * len(deviations)))).values)


if __name__ == "__main__":
    main()
