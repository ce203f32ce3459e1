"""Ours and other packages side by side on one study, in one run, as a Markdown table.

Run ``python -m tests.benchmarks.peers``; a package in another environment is named by its interpreter,
``--python pydvl=path/to/python``, and ``--python ours=...`` is where ``influence_core`` runs. What is not installed
is said so.

The study is the digits study with a small network without batch normalisation in place of its own: some packages leave
batch normalisation out, and only what covers the same parameters can agree. Everything is in float64 on one thread,
without weight decay, with the same absolute damping of the Hessian (with 0.1 of each layer's mean eigenvalue for
EK-FAC, with the empirical Fisher on both sides, since no two packages draw the same labels). Ours divides by the number
of training images N, so the others' scores are divided by it too, unless they have it already: Captum's Hessian is the
sum over images, and the learning rates of TracIn are its scale. All have the same sign, positive for helpful.

``difference`` is the norm of the difference over the norm of ours, ``correlation`` is Pearson's over all pairs.
``CPU s`` are seconds of the processor from the trained model to the scores, ``s`` those of the clock; ``x plain`` and
``x ours`` are processor seconds over those of plain forward and backward passes over all images, and over ours. ``peak
MiB`` is the memory above that at the start. What disagrees without a known reason is told so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.utils.data import TensorDataset

import influence_core as ic
from tests.benchmarks import peer_workers
from tests.benchmarks.peer_workers import CALLS, PLAIN, Call, network

ROOT = Path(__file__).parents[2]
DISAGREES = "DISAGREES"
AGREEMENT = 1e-6
"""Difference beyond which a call disagrees, unless it is known why."""


def make_problem(tests: int, damping: float) -> dict[str, Any]:
    """Train the network on the digits."""
    study = ic.demo.digits()
    size = len(study.train)
    inputs, labels = study.train.batch(range(size))
    train = (inputs.double(), labels)
    test_inputs, test_labels = study.test.batch(range(tests))
    torch.manual_seed(0)
    model = network()
    trajectory = ic.training.fit(model, TensorDataset(*train), epochs=20, learning_rate=0.1, checkpoints=4)
    return {
        "states": [{name: t.clone() for name, t in c.state.items()} for c in trajectory],
        "rates": [c.learning_rate for c in trajectory],
        "train": train,
        "test": (test_inputs.double(), test_labels),
        "damping": damping,
    }


def run(name: str, call: Call, python: str, folder: Path, repeats: int) -> dict[str, Any] | str:
    """One call in a process of its own: what it found, or one line that says why not."""
    output = folder / f"{name}.pt"
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TQDM_DISABLE": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [python, peer_workers.__file__, name, str(folder / "problem.pt"), str(output), str(repeats)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == peer_workers.MISSING:
        return "not installed"
    if done.returncode < 0:
        return f"ended by signal {-done.returncode} (9: out of memory)"
    if done.returncode != 0:
        return f"failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    found: dict[str, Any] = torch.load(output, weights_only=True)
    return found


@dataclass(frozen=True)
class Row:
    """What a call found.

    Attributes:
        call: the call.
        found: scores, seconds, memory and version; ``None`` where there is nothing.
        plain: processor seconds over those of plain passes.
        ours: and over ours; ``None`` for ours.
        difference: norm of the difference over the norm of ours, likewise.
        correlation: Pearson's, likewise.
        note: why there is nothing, or what is special.
    """

    call: Call
    found: dict[str, Any] | None = None
    plain: float | None = None
    ours: float | None = None
    difference: float | None = None
    correlation: float | None = None
    note: str = ""

    def cells(self) -> list[str]:
        """A line of the table; what disagrees has no times."""
        if self.found is None:
            return [self.call.package, self.call.what, *[""] * 7, self.note]
        name = f"{self.call.package} {self.found['version']}"
        compared = [number(self.difference, ".1e"), number(self.correlation, ".6f")]
        if self.note == DISAGREES:
            return [name, self.call.what, *compared, *[""] * 5, self.note]
        times = [f"{self.found['seconds']:.3f}", f"{self.found['wall']:.3f}", number(self.plain, ".1f")]
        return [name, self.call.what, *compared, *times, number(self.ours, ".2f"), self.memory(), self.note]

    def memory(self) -> str:
        """MiB, or a question mark."""
        return "?" if self.found is None or self.found["memory"] < 0 else f"{self.found['memory']:.0f}"


def number(value: float | None, form: str) -> str:
    """A number, or nothing."""
    return "" if value is None else format(value, form)


def compared(call: Call, found: dict[str, Any], plain: float | None, base: dict[str, Any] | None, size: int) -> Row:
    """A row, beside that of ours where there is one."""
    ratio = None if plain is None else found["seconds"] / plain
    if base is None:
        return Row(call, found, ratio)
    scores, reference = found["scores"] * call.scale(size), base["scores"]
    difference = float((scores - reference).norm() / reference.norm())
    note = call.note or ("" if difference <= AGREEMENT else DISAGREES)  # NaN too
    return Row(call, found, ratio, found["seconds"] / base["seconds"], difference, correlation(scores, reference), note)


def rows(
    calls: Iterable[str], tests: int, damping: float, repeats: int, pythons: Mapping[str, str] | None = None
) -> Iterator[Row]:
    """Run calls in processes of their own, one after the other, each after that of ours which it is compared with.

    Args:
        calls: keys of ``CALLS``.
        tests: how many test images.
        damping: added to the Hessian of the mean loss.
        repeats: timed runs after the first.
        pythons: package -> interpreter; this one where there is none.

    Yields:
        A row for each.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problem = make_problem(tests, damping)
        torch.save(problem, folder / "problem.pt")
        size = len(problem["train"][0])
        own: dict[str, dict[str, Any]] = {}
        for key in calls:
            call = CALLS[key]
            found = run(key, call, (pythons or {}).get(call.package, sys.executable), folder, repeats)
            if isinstance(found, str):
                yield Row(call, note=found)
                continue
            if not call.against:
                own[key] = found
            elif call.against not in own:
                yield Row(call, note="nothing of ours to compare with")
                continue
            plain = own[PLAIN]["seconds"] if PLAIN in own else None
            yield compared(call, found, plain, own.get(call.against), size)


def correlation(left: Tensor, right: Tensor) -> float:
    """Pearson's, over all pairs."""
    return float(torch.corrcoef(torch.stack([left.flatten(), right.flatten()]))[0, 1])


def main(
    tests: Annotated[int, typer.Option(help="How many test images.")] = 32,
    damping: Annotated[float, typer.Option(help="Added to the Hessian of the mean loss; absolute.")] = 0.2,
    repeats: Annotated[int, typer.Option(help="Timed runs after the first, of which the fastest counts.")] = 1,
    python: Annotated[list[str] | None, typer.Option(help="Interpreter of a package, PACKAGE=PATH.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Packages; all by default. Ours always runs.")] = None,
) -> None:
    """Run every call in a process of its own, one after the other."""
    chosen = dict(pair.split("=", 1) for pair in python or [])
    chosen["influence_core"] = chosen.get("ours", sys.executable)
    torch.set_num_threads(1)
    size, parameters = len(ic.demo.digits().train), sum(p.numel() for p in network().parameters())
    typer.echo(
        f"Digits: {size} training and {tests} test images, {parameters} parameters, float64, one thread, "
        f"damping {damping:g}\n"
    )
    heads = "package | method | difference | correlation | CPU s | s | x plain | x ours | peak MiB | remark"
    typer.echo(f"| {heads} |\n|{'---|' * len(heads.split('|'))}")
    keys = [key for key, call in CALLS.items() if not only or not call.against or call.package in only]
    for found in rows(keys, tests, damping, repeats, chosen):
        typer.echo(f"| {' | '.join(found.cells())} |")


if __name__ == "__main__":
    typer.run(main)
