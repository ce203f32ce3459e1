"""The table of the section on speed in RESULTS.md, as Markdown.

    python -m tests.benchmarks.speed --repeats 5
    python -m tests.benchmarks.speed --samples 320 --queries 8 --repeats 1    # a trial

Runs ``tests.benchmarks.gradients`` (inner products, sketches, self-influence; float32) and ``tests.benchmarks.peers``
(EK-FAC, conjugate gradients, Arnoldi; float64, one thread, on the digits). Both compare results before they tell times.
``x plain`` is over plain forward and backward passes over the same images, of the clock and of the processor; ``ours /
theirs`` is our processor time over that of the row, below 1 where ours is quicker. What is not installed in this
environment (extra ``bench``, and pyDVL) is a dash with the reason.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch

from tests.benchmarks import gradients, peers
from tests.benchmarks.contenders import TASKS
from tests.benchmarks.peer_workers import CALLS, PLAIN

TITLES = {
    "T1 inner products": "T1, inner products",
    "T2 projection, k = 512": "T2, sketch of 512",
    "T2 projection, k = 2048": "T2, sketch of 2048",
    "T4 squared norms": "T4, squared norms",
    "T4 diagonal metric": "T4, diagonal metric",
}
SOLVED = {"ekfac": "T3, EK-FAC", "cg": "conjugate gradients", "arnoldi": "Arnoldi"}
"""Row of ours in ``peers`` -> title."""
LEFT_OUT = ("dense", "explicit", "direct")
"""Calls that form the whole matrix: there to agree with, not to be quick."""
HEADS = ("task", "", "s", "CPU s", "x plain", "CPU x plain", "ours / theirs", "peak MiB", "remark")


def by_gradients(settings: gradients.Settings) -> Iterator[list[str]]:
    """Rows of the first four tasks."""
    for task, title in TITLES.items():
        rows = gradients.compare(settings, task, list(TASKS[task]))
        ours = next((row for row in rows if row.name == next(iter(TASKS[task]))), None)
        for row in rows:
            if row.spent is None:
                yield [title, row.name.strip(), *["-"] * 6, row.note]
                continue
            own = ours is None or ours.spent is None or row.name == "plain" or "influence_core" in row.name
            times = [f"{row.spent.seconds:.2f}", f"{row.spent.cpu:.2f}", f"{row.ratio:.2f}", f"{row.cpu_ratio:.2f}"]
            ratio = "" if own or row.name.startswith(" ") else f"{ours.spent.cpu / row.spent.cpu:.2f}"
            yield [title, row.name.strip(), *times, ratio, f"{row.spent.peak:.0f}", row.note]


def by_peers(tests: int, damping: float, repeats: int) -> Iterator[list[str]]:
    """Rows of the others, each task's beside each other."""
    wanted = [
        key
        for own in SOLVED
        for key, call in CALLS.items()
        if own in (key, call.against) and not any(part in key for part in LEFT_OUT)
    ]
    plain_wall = None
    for key, row in zip([PLAIN, *wanted], peers.rows([PLAIN, *wanted], tests, damping, repeats), strict=True):
        title = SOLVED.get(row.call.against or key, "plain")
        name = f"{row.call.package}, {row.call.what}"
        if row.found is None or row.note == peers.DISAGREES:
            yield [title, name, *["-"] * 6, row.note]
            continue
        plain_wall = row.found["wall"] if key == PLAIN else plain_wall
        times = [f"{row.found['wall']:.3f}", f"{row.found['seconds']:.3f}"]
        ratios = [peers.number(plain_wall and row.found["wall"] / plain_wall, ".1f"), peers.number(row.plain, ".1f")]
        ratio = peers.number(row.ours and 1 / row.ours, ".2f")
        yield [title, name, *times, *ratios, ratio, row.memory(), row.note]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", nargs="*", choices=["A", "B"], default=["A", "B"], help="small CNN, ResNet-18")
    parser.add_argument("--samples", type=int, help="N, if not the works' own")
    parser.add_argument("--queries", type=int, help="M, if not the works' own, and the test images of the solves")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of the first four tasks")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds after which a run is given up")
    parser.add_argument("--damping", type=float, default=0.2, help="of the solves, absolute")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lengths = (options.samples, options.queries, options.repeats, options.threads, options.limit)
    for work in options.work:
        settings = gradients.Settings(work, *lengths)
        begin(f"Work {work}, threads: {options.threads}, repeats: {options.repeats}, torch {torch.__version__}")
        show(by_gradients(settings))
    begin("Solves: the digits, float64, one thread")
    show(by_peers(options.queries or 32, options.damping, options.repeats))


def begin(title: str) -> None:
    """A title and the head of a table."""
    print(f"\n{title}\n\n| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}", flush=True)


def show(rows: Iterator[list[str]]) -> None:
    """Each row once it is known."""
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
