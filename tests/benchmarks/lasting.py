"""Results that last, the section of RESULTS.md: ``python -m tests.benchmarks.lasting --only demo``.

Parts: ``demo`` (each estimator's explanation of the demo, by a server that has just been started, from the answers that
came with it), ``retrainings`` (linear datamodelling by a job that is killed and gone on with, against one process) and
``large`` (50,000 images: opened and clicked from the store, the server's own memory, and its idling afterwards;
``--studies`` is the folder of ``app_studies``), ``command_line`` (TracIn and LastLayer on its ``one_epoch`` as jobs of
``influence``, killed and gone on with). The first is seconds in Chromium, from navigation to the pictures.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from playwright.sync_api import sync_playwright

import influence_core as ic
from influence_core.jobs import processes
from tests.benchmarks.app_page import View, served
from tests.browser.conftest import FLAGS

CLICKS = 100
IDLE_AFTER, IDLE_SECONDS = 480.0, 60.0
ASKED = 8


def demo() -> None:
    """Seconds from a new page to each estimator's explanation; the first also waits for the server's start."""
    print("| estimator | seconds |\n|---|---|")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        began = time.perf_counter()
        with served("app.py") as server:
            print(f"| (the server's start) | {time.perf_counter() - began:.1f} |", flush=True)
            for kind in ic.estimators.all_estimators():
                if "influence" in kind.gives():
                    with View.of(browser) as view:
                        url = f"{server.url}/explain?run=digits&estimator={kind.name}&test=475"
                        print(f"| `{kind.name}` | {view.first_answer(url, kind.title)[0]:.1f} |", flush=True)
        browser.close()


def retrainings(count: int) -> None:
    """The same losses from one process, and from a job whose worker is killed three times."""
    study = ic.demo.digits()
    kept = ic.evaluation.draw_subsets(len(study.train), count)
    with tempfile.TemporaryDirectory() as folder:
        store = ic.store.Store(folder)
        task = ic.store.Retrainings.of(study, "recipe", kept, range(len(study.test)), (0,))
        job = ic.jobs.submit_task(task, store=store)
        killed: list[int] = []
        while job.state in ("queued", "running"):
            job.ask()
            if len(killed) < 3 and job.state == "running" and job.done >= (len(killed) + 1) * count // 4:
                killed.append(job.done)
                kill(job)
                job.resume()
            time.sleep(0.2)
        by_job = ic.evaluation.retrain_subsets(study, "recipe", kept, store=store)
    by_one = ic.evaluation.retrain_subsets(study, "recipe", kept)
    scores = ic.estimators.EKFAC().fit(study).influence()
    found = [ic.evaluation.lds(study, scores, losses) for losses in (by_one, by_job)]
    print(f"{count} retrainings, the worker killed at {killed}: losses equal to the bit: ", end="")
    print(torch.equal(by_one.losses, by_job.losses), f"; EK-FAC {found[0]} and {found[1]}")


def large(studies: Path) -> None:
    """The app on 50,000 images whose answers are stored."""
    path = studies / "fifty_thousand"
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        study, store = ic.Study.load(path), ic.store.Store(Path(folder) / "store")
        wrong = study.misclassified()[:1000]
        ic.run(study, "lastlayer", "influence", wrong, store=store)
        del study
        url, title = f"/explain?run=fifty_thousand&estimator=lastlayer&test={int(wrong[0])}", "Last layer"
        with served("app.py", "--study", str(path), store=store.path) as server, View.of(browser) as view:
            opened, _ = view.first_answer(server.url + url, title)
            server.rest()
            before, count = server.own_memory(), view.mistakes() - 1
            seconds = [view.pick((number + 1) % count + 1)[1] for number in range(CLICKS)]
            after = server.own_memory()
            view.page.close()
            time.sleep(IDLE_AFTER)
            spent = server.spent()
            time.sleep(IDLE_SECONDS)
            idle = (server.spent() - spent) / IDLE_SECONDS
        browser.close()
    print(f"opened in {opened:.2f} s; click {median(seconds):.2f} s at the median, {max(seconds):.2f} s at the most")
    print(f"own memory {before:.0f} MiB before and {after:.0f} MiB after {CLICKS} clicks")
    print(f"processor {IDLE_AFTER:.0f} s after the last browser left: {idle:.1%}")


def command_line(studies: Path, names: Sequence[str] = ("lastlayer", "tracin")) -> None:
    """Jobs of the command line, each killed once at about a third: the bytes of one that nobody disturbs."""
    path = studies / "one_epoch"
    study = ic.Study.load(path)
    wrong = study.misclassified()[:ASKED].tolist()
    print("| estimator | killed at | job, s | undisturbed, s | kept, shards | same bytes |\n|---|---|---|---|---|---|")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            store = ic.store.Store(Path(folder) / "store")
            command = partial(influence, store)
            began = time.perf_counter()
            command("score", str(path), name, "--what", "influence", "--test", ",".join(map(str, wrong)), "--job")
            (job,) = ic.jobs.jobs(store)
            while not job.total or job.done < job.total / 3:
                job.ask()
                time.sleep(0.1)
            at = job.done / job.total
            kill(job)
            kept = store.progress(job.request)
            command("jobs", "resume", "last")
            command("jobs", "wait", "last", "--out", str(Path(folder) / "scores.parquet"))
            spent = time.perf_counter() - began
            began = time.perf_counter()
            alone = ic.run(study, name, "influence", wrong, store=ic.store.Store(Path(folder) / "other")).values
            undisturbed = time.perf_counter() - began
            same = torch.equal(alone, ic.run(study, name, "influence", wrong, store=store).values)
        print(
            f"| `{name}` | {at:.0%} | {spent:.1f} | {undisturbed:.1f} | {kept.done:,} of {kept.total:,} | {same} |",
            flush=True,
        )


def influence(store: ic.store.Store, *arguments: str) -> None:
    """A command, which has to end well."""
    command = [sys.executable, "-m", "influence_core.cli", *arguments]
    environment = {**os.environ, "INFLUENCE_STORE": str(store.path)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


def kill(job: ic.jobs.Job) -> None:
    """Kill a job's worker, and wait until that was seen."""
    processes.kill(str(job.row.process))
    while job.row.under_way:
        time.sleep(0.1)


def main(
    only: Annotated[list[str] | None, typer.Option(help="demo, retrainings, large, command_line.")] = None,
    studies: Annotated[Path | None, typer.Option(help="Folder of app_studies' studies.")] = None,
    count: Annotated[int, typer.Option(help="Retrainings.")] = 100,
) -> None:
    """Measure, and print."""
    parts = only or ["demo", "retrainings", *(["large", "command_line"] if studies else [])]
    if "demo" in parts:
        demo()
    if "retrainings" in parts:
        retrainings(count)
    for part, measure in (("large", large), ("command_line", command_line)):
        if part in parts:
            if studies is None:
                raise typer.BadParameter(f"--studies FOLDER is needed for {part}")
            measure(studies.resolve())


if __name__ == "__main__":
    typer.run(main)
