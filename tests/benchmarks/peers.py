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
``seconds`` are those of the processor, from the trained model to the scores, and ``peak MiB`` is the memory above that
at the start.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.utils.data import TensorDataset

import influence_core as ic
from tests.benchmarks import peer_workers
from tests.benchmarks.peer_workers import CALLS, Call, network

ROOT = Path(__file__).parents[2]


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


def row(call: Call, found: dict[str, Any], base: dict[str, Any] | None, size: int) -> str:
    """A line of the table."""
    memory = "?" if found["memory"] < 0 else f"{found['memory']:.0f}"
    name = f"{call.package} {found['version']}"
    if base is None:
        return f"| {name} | {call.what} | | | {found['seconds']:.2f} | 1 | {memory} | |"
    scores, reference = found["scores"] * call.scale(size), base["scores"]
    difference = float((scores - reference).norm() / reference.norm())
    note = call.note or ("" if bool(scores.isfinite().all()) else "not finite")
    return (
        f"| {name} | {call.what} | {difference:.1e} | {correlation(scores, reference):.6f} | "
        f"{found['seconds']:.2f} | {found['seconds'] / base['seconds']:.1f} | {memory} | {note} |"
    )


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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problem = make_problem(tests, damping)
        torch.save(problem, folder / "problem.pt")
        size = len(problem["train"][0])
        parameters = sum(p.numel() for p in network().parameters())
        typer.echo(
            f"Digits: {size} training and {tests} test images, {parameters} parameters, float64, one thread, "
            f"damping {damping:g}\n"
        )
        typer.echo("| package | method | difference | correlation | seconds | time / ours | peak MiB | remark |")
        typer.echo("|---|---|---|---|---|---|---|---|")
        own: dict[str, dict[str, Any]] = {}
        for key, call in CALLS.items():
            if only and call.against and call.package not in only:
                continue
            found = run(key, call, chosen.get(call.package, sys.executable), folder, repeats)
            if isinstance(found, str):
                typer.echo(f"| {call.package} | {call.what} | | | | | | {found} |")
                continue
            if not call.against:
                own[key] = found
            elif call.against not in own:
                typer.echo(f"| {call.package} | {call.what} | | | | | | nothing of ours to compare with |")
                continue
            typer.echo(row(call, found, own.get(call.against), size))


if __name__ == "__main__":
    typer.run(main)
