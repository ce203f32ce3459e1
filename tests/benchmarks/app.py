"""The app in Chromium, the last tables of RESULTS.md: ``python -m tests.benchmarks.app --studies FOLDER``.

The studies are those of ``app_studies``, made in the folder where they are missing. ``--only`` chooses parts:
``first`` (the first answer of an estimator against the bare library call), ``clicks`` (on mistakes whose influences
are computed ahead), ``tiles`` (a thousand pictures against ``st.image``) and ``memory`` (of the server over a hundred
clicks). Seconds are taken inside of the page, to the frame in which the pictures are there. The machine has to be idle
otherwise.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from playwright.sync_api import Browser, sync_playwright

import influence_core as ic
from tests.benchmarks import app_studies
from tests.benchmarks.app_page import FLAGGED, View, served
from tests.browser.conftest import FLAGS

FIRST = ("lastlayer", "tracin", "ekfac")
CLICKS = (("digits", "lastlayer"), ("digits", "ekfac"), ("fifty_thousand", "lastlayer"), ("fifty_thousand", "tracin"))
WARM = 20
MOST_CLICKS, MOST_SECONDS = 80, 900.0
REPEATS = 3
WARM_UP, HUNDRED = 10, 100
BARE = """
import sys, time
import influence_core as ic
study = ic.Study.load(sys.argv[1])
began = time.perf_counter()
ic.estimators.get(sys.argv[2]).fit(study).influence([int(sys.argv[3])])
print(time.perf_counter() - began)
"""


def table(title: str, columns: list[str], rows: Iterator[list[str]]) -> None:
    """Print a table, each row once it is known."""
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def bare(study: Path, estimator: str, test_id: int) -> float:
    """Seconds of the same question to the library, in a fresh process, after the study is loaded."""
    command = [sys.executable, "-c", BARE, str(study), estimator, str(test_id)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def first(browser: Browser, studies: Path, images: int = 2000, names: Sequence[str] = FIRST) -> Iterator[list[str]]:
    """The first answer of each estimator, of a server that has loaded the study and nothing more.

    What takes long shows pictures of a part of the training images before: of the first, and of all.
    """
    path = studies / "resnet18"
    study = ic.Study.load(path)
    if images < len(study.train):
        study = study.replaced(train=study.train.subset(range(images)), name=f"ResNet-18, {images:,} pictures")
        path = study.save(studies / f"resnet18_{images}")
    wrong, count = study.misclassified(), study.num_classes
    test_id = int(wrong[0])
    seen = set((study.test.labels * count + study.predictions()).tolist())
    empty = next(divmod(i, count) for i in range(count * count) if i not in seen and i // count != i % count)
    del study, wrong
    for name in names:
        before = bare(path, name, test_id)
        with served("app.py", "--study", str(path)) as server, View.of(browser) as view:
            # a square of the confusion matrix without images: all of Explain but an explanation
            view.open(
                f"{server.url}/explain?run={path.name}&cell={empty[0]},{empty[1]}",
                "bench.all('[data-testid=stAlert]').length > 0",
            )
            server.rest()
            seconds, whole, pressed = view.first_answer(
                f"{server.url}/explain?run={path.name}&estimator={name}&test={test_id}", ic.estimators.get(name).title
            )
        alone = (before + bare(path, name, test_id)) / 2
        note = "the click on Start" if pressed else "navigation"
        told = (seconds, whole, alone, seconds / alone, whole / alone)
        yield [name, note, *(f"{value:.2f}" for value in told)]


def start(study: str, studies: Path) -> list[str]:
    """Arguments of the app for a study and the probe; the digits are there by themselves."""
    return ["--plugin", "tests.benchmarks.app_probe", *([] if study == "digits" else ["--study", str(studies / study)])]


def clicks(browser: Browser, studies: Path) -> Iterator[list[str]]:
    """Mistakes clicked in the order of the gallery, each after the work in the background is through."""
    for study, name in CLICKS:
        with served("app.py", *start(study, studies)) as server, View.of(browser) as view:
            view.first_answer(f"{server.url}/explain?run={study}&estimator={name}", ic.estimators.get(name).title)
            seconds: dict[bool, list[float]] = {True: [], False: []}
            began = time.monotonic()
            for place in range(2, 2 + min(MOST_CLICKS, view.mistakes() - 1)):
                server.rest()
                at = server.log.stat().st_size
                test_id, spent = view.pick(place)
                ahead = next(q["there"] for q in server.asked(at) if (q["test"], q["estimator"]) == (test_id, name))
                seconds[ahead].append(spent)
                if len(seconds[True]) == WARM or time.monotonic() - began > MOST_SECONDS:
                    break
        warm, cold = seconds[True], seconds[False]
        share = len(cold) / (len(warm) + len(cold))
        yield [
            study,
            name,
            str(len(warm)),
            f"{median(warm):.2f}" if warm else "",
            f"{max(warm):.2f}" if warm else "",
            f"{len(cold)} ({share:.0%})",
            f"{median(cold):.2f}" if cold else "",
        ]


def tiles(browser: Browser, studies: Path) -> Iterator[list[str]]:
    """Mislabels against a page of the same thumbnails in ``st.image``, in turn; each seen once before by the server.

    Mislabels has figures as well, so that what tiles take is what a page of many takes more than one of ten.
    """
    path = studies / "fifty_thousand"
    plain = "tests/benchmarks/app_plain.py"
    with (
        served("app.py", "--study", str(path)) as ours,
        served(plain, str(path), "1000") as theirs,
        served(plain, str(path), "10") as few,
    ):
        address = f"{ours.url}/mislabels?run=fifty_thousand&estimator=lastlayer&flag="
        shown = f'bench.screen("{FLAGGED}", '
        pages = {
            "gallery, 10": (f"{address}10", f"{shown}10)"),
            "`st.image`, 10": (few.url, "bench.plain(10)"),
            "gallery, 1,000": (f"{address}1000", f"{shown}1000)"),
            "`st.image`, 1,000": (theirs.url, "bench.plain(1000)"),
            "gallery, 10,000": (f"{address}10000", f"{shown}10000)"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in pages}
        for turn in range(REPEATS + 1):
            for name, (url, condition) in pages.items():
                with View.of(browser) as view:
                    spent = view.open(url, condition)
                ours.rest()
                theirs.rest()
                few.rest()
                if turn:
                    seconds[name].append(spent)
    for name, all_of_it in seconds.items():
        spent = median(all_of_it)
        kind = name.split(",")[0]
        more = spent - median(seconds[f"{kind}, 10"])
        yield [name, f"{spent:.2f}", f"{min(all_of_it):.2f} to {max(all_of_it):.2f}", f"{more:+.2f}"]


def memory(browser: Browser, studies: Path) -> Iterator[list[str]]:
    """The server before and after a hundred clicks on mistakes, in the order of the gallery, round and round."""
    for study in ("digits", "fifty_thousand"):
        with served("app.py", *start(study, studies)) as server, View.of(browser) as view:
            view.first_answer(f"{server.url}/explain?run={study}&estimator=lastlayer", "Last layer")
            count = view.mistakes()
            sizes = []
            for number in range(WARM_UP + HUNDRED):
                if number == WARM_UP:
                    server.rest()
                    sizes.append(server.memory())
                view.pick((number + 1) % count + 1)
            server.rest()
            sizes.append(server.memory())
        yield [study, *(f"{size:.0f}" for size in sizes), f"{sizes[1] - sizes[0]:+.0f}"]


PARTS = {
    "first": (
        "First answer, ResNet-18, a fresh server for each; the bare call before and after",
        ["estimator", "from", "first pictures, s", "whole answer, s", "bare call, s", "ratio", "whole ratio"],
        first,
    ),
    "clicks": (
        "From a click on a mistake to its training images; warm: its influence had been computed ahead",
        ["study", "estimator", "warm", "median, s", "worst, s", "not ahead", "median of those, s"],
        clicks,
    ),
    "tiles": (
        f"From navigation to the first screen of pictures (`st.image`: all of them), median of {REPEATS}",
        ["page", "s", "range", "more than ten"],
        tiles,
    ),
    "memory": (
        f"Resident memory of the server over {HUNDRED} clicks on mistakes, after {WARM_UP}, `lastlayer`",
        ["study", "before, MiB", "after, MiB", "change"],
        memory,
    ),
}


def main(
    studies: Annotated[Path, typer.Option(help="Folder of the studies; what is missing is made.")],
    only: Annotated[list[str] | None, typer.Option(help=f"Parts: {', '.join(PARTS)}; all by default.")] = None,
    images: Annotated[int, typer.Option(help="Training images of the ResNet-18, for first.")] = 2000,
    estimator: Annotated[list[str] | None, typer.Option(help=f"For first; {', '.join(FIRST)} by default.")] = None,
) -> None:
    """Measure, and print tables in Markdown."""
    parts = only or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        raise typer.BadParameter(f"--only {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    studies = studies.resolve()
    if missing := [n for n in ("resnet18", "fifty_thousand") if not (studies / n / "study.toml").exists()]:
        app_studies.main(studies, only=missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for part in parts:
            title, columns, measure = PARTS[part]
            if part == "first":
                measure = partial(first, images=images, names=estimator or FIRST)
            table(title, columns, measure(browser, studies))
        browser.close()


if __name__ == "__main__":
    typer.run(main)
