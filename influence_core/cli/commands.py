"""The commands of ``influence`` and their help; what each does is in the files beside this one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from influence_core.cli import texts
from influence_core.cli.console import FAILED, STOPPED, as_json, command, opened, result, say, settings
from influence_core.cli.jobs import app as jobs
from influence_core.cli.options import Json, Out, Trust
from influence_core.cli.store import app as store
from influence_core.errors import InvalidInput

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help=texts.INFLUENCE,
)
app.add_typer(jobs, name="jobs")
app.add_typer(store, name="store")

StudyPath = Annotated[str, typer.Argument(metavar="STUDY", help="Folder of the study, its study.toml, or demo.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting; may be given again.")]
Seed = Annotated[int, typer.Option(help="Of all random draws.")]
Estimator = Annotated[str, typer.Option("--estimator", "-e", help="As `influence estimators` names it.")]
Accept = Annotated[
    str, typer.Option(help="reviewed: follow the column decision; flagged: take every flagged suggestion.")
]


@app.callback()
def influence() -> None:
    """What all commands share."""


@app.command("new", help=texts.NEW)
@command
def new(
    name: Annotated[str, typer.Argument(help="Of the study and its folder; cifar10n for the one of real label noise.")],
    data: Annotated[Path | None, typer.Option(help="Pictures: a folder, or a CSV or Parquet file.")] = None,
    test: Annotated[Path | None, typer.Option(help="Pictures to test on; by default a part of --data.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; by default NAME.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Trained weights; without them a network is trained here.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="small_cnn, mlp, cifar_resnet, torchvision:NAME, timm:NAME, or of --plugin.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Argument of the architecture; repeatable.")
    ] = None,
    plugin: Annotated[Path | None, typer.Option(help="Python file that registers the architecture; it is run.")] = None,
    file: Annotated[str, typer.Option(help="Column of a table with the picture.")] = "",
    label: Annotated[str, typer.Option(help="Column with the label.")] = "label",
    true_label: Annotated[str | None, typer.Option(help="Column with the label known to be right.")] = None,
    split: Annotated[str | None, typer.Option(help="Column that says train, validation or test.")] = None,
    size: Annotated[str | None, typer.Option(help="Pixels to resize to: 32, or HEIGHTxWIDTH.")] = None,
    mean: Annotated[str | None, typer.Option(help="Of the channels in training, such as 0.485,0.456,0.406.")] = None,
    std: Annotated[str | None, typer.Option(help="Likewise; one number each for grey pictures.")] = None,
    test_share: Annotated[float, typer.Option(help="Of --data, where it has no test part.")] = 0.2,
    validation_share: Annotated[float, typer.Option(help="Likewise; 0 for none.")] = 0.0,
    epochs: Annotated[int, typer.Option(help="Of the training, without --weights.")] = 20,
    learning_rate: Annotated[float, typer.Option(help="Likewise.")] = 0.1,
    batch_size: Annotated[int, typer.Option(help="Likewise.")] = 64,
    images: Annotated[int | None, typer.Option(help="At most so many training images, spread evenly.")] = None,
    seed: Seed = 0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take the defaults.")] = False,
    json: Json = False,
) -> None:
    """Make a study of pictures and a trained network."""
    from influence_core.cli.new import make

    given = {key: value for key, value in locals().items() if key not in ("make", "json")}
    facts, text = make(**given)
    as_json(facts) if json else result(text)


@app.command("doctor", help=texts.DOCTOR)
@command
def doctor(
    study: StudyPath,
    sample: Annotated[int, typer.Option(help="Images of each split to look at; 0 for all.")] = 512,
    calibrate: Annotated[bool, typer.Option(help="Time a few batches to predict what estimators cost.")] = True,
    again: Annotated[bool, typer.Option("--again", help="Time them anew.")] = False,
    memory: Annotated[float | None, typer.Option(help="MiB of memory that there is, instead of what is free.")] = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Look at a study before anything long runs: what does not fit, why it matters, and what mends it."""
    from influence_core.diagnosis import doctor as examine

    named: Any = study
    if study == "demo" and not Path(study).exists():
        named = opened(study)
    report = examine(named, sample=sample or None, calibrate=calibrate, again=again, memory_mib=memory, trust=trust)
    result(report.to_json() if json else str(report))
    if report.exit_code:
        raise typer.Exit(report.exit_code)


@app.command("estimators", help=texts.ESTIMATORS)
@command
def estimators(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="To say what can run on it, and its cost.")
    ] = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """List the estimators and what each is good for; with a study, which can run there, at what cost."""
    from influence_core.cli.scoring import listed

    table = listed(None if study is None else opened(study, trust))
    as_json(table.to_dict("records")) if json else result(table.to_string(index=False, justify="left"))


@app.command("score", help=texts.SCORE)
@command
def score(
    study: StudyPath,
    estimator: Annotated[str, typer.Argument(help="As `influence estimators` names it.")],
    what: Annotated[
        str, typer.Option(help="influence, self_influence, mislabel_scores or label_influence.")
    ] = "mislabel_scores",
    test: Annotated[
        str, typer.Option(help="Test images for influence: 3,17, or wrong for the misclassified.")
    ] = "wrong",
    set_: Set = None,
    out: Out = None,
    job: Annotated[
        bool, typer.Option("--job", help="Let a process of its own compute them, which goes on after this one.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Of a job, wait until it is through.")] = False,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Ask an estimator for scores of all training images."""
    from influence_core.cli.jobs import submitted
    from influence_core.cli.scoring import scored

    if wait and not job:
        raise InvalidInput("--wait belongs to --job: without it the scores are computed here, and waited for")
    asked = (opened(study, trust), estimator, what, test, settings(set_), out)
    facts, text = submitted(*asked, wait) if job else scored(*asked)
    as_json(facts) if json else result(text)


@app.command("compare", help=texts.COMPARE)
@command
def compare(
    study: StudyPath,
    estimators: Annotated[str, typer.Argument(metavar="ESTIMATORS", help="Names with commas: ekfac,trak,lastlayer.")],
    test: Annotated[
        str | None, typer.Option(help="3,17, or wrong for all misclassified; by default at most 20 of them.")
    ] = None,
    k: Annotated[int, typer.Option("--top", help="Of the images that they are asked to agree on.")] = 10,
    subsets: Annotated[int | None, typer.Option(help="Random halves to train on; 50 are sensible.")] = None,
    left_out: Annotated[int | None, typer.Option(help="Random images to leave out, one at a time.")] = None,
    removal: Annotated[float | None, typer.Option(help="Share of the images to train without, such as 0.01.")] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each.")] = 1,
    out: Out = None,
    job: Annotated[bool, typer.Option("--job", help="Let a process of its own train.")] = False,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Ask several estimators the same, and see which of them should be believed."""
    from influence_core.cli.comparing import compared

    facts, text = compared(opened(study, trust), estimators, test, k, (subsets, left_out, removal), seeds, out, job=job)
    as_json(facts) if json else result(text)


@app.command("relabel", help=texts.RELABEL)
@command
def relabel(
    study: StudyPath,
    estimator: Estimator = "",
    flag: Annotated[
        int | None, typer.Option(help="Flag so many images; by default those above Otsu's threshold.")
    ] = None,
    only_flagged: Annotated[bool, typer.Option("--only-flagged", help="Write the flagged images alone.")] = False,
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(help="CSV file to write; by default stdout.")] = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Suggest a label for every training image, the most suspicious first, as a CSV to review."""
    from influence_core.cli.scoring import suggested

    facts, text = suggested(opened(study, trust), estimator, flag, only_flagged, settings(set_), out)
    as_json(facts) if json else result(text)


@app.command("apply", help=texts.APPLY)
@command
def apply(
    study: StudyPath,
    reviewed: Annotated[Path, typer.Argument(help="The CSV of `influence relabel`, reviewed.")],
    out: Annotated[Path | None, typer.Option(help="Copy of the folder, CSV or Parquet file to write.")] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Replace the original; a backup stays beside it.")
    ] = False,
    accept: Accept = "reviewed",
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Put the decisions of a reviewed CSV into a copy of the study's pictures: its folder, CSV or Parquet file."""
    from influence_core.cli.mending import applied

    facts, text = applied(opened(study, trust), reviewed, out, in_place, accept)
    as_json(facts) if json else result(text)


@app.command("retrain", help=texts.RETRAIN)
@command
def retrain(
    study: StudyPath,
    mended: Annotated[Path, typer.Argument(help="What `influence apply` wrote, or the reviewed CSV.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the study with the mended labels.")] = None,
    seeds: Annotated[int, typer.Option(help="Trainings on each set of labels.")] = 3,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Train again on the mended labels, with the study's own recipe, and print what it gives on the test images."""
    from influence_core.cli.mending import retrained

    facts, text = retrained(opened(study, trust), mended, out, seeds)
    as_json(facts) if json else result(text)


@app.command("app", help=texts.APP)
@command
def open_app(
    study: Annotated[
        list[str] | None, typer.Argument(metavar="[STUDY]...", help="Studies to show; else the demo.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="By default the first free one from 8501 on.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder whose studies may be opened from the browser.")] = None,
    host: Annotated[list[str] | None, typer.Option(help="A name that browsers may call this server by.")] = None,
    plugin: Annotated[list[str] | None, typer.Option(help="Python file or module to run first.")] = None,
    background: Annotated[
        bool, typer.Option("--background", help="Return once it answers; it goes on by itself.")
    ] = False,
    json: Json = False,
) -> None:
    """Open the app in a browser: overview, explanations, suspects and relabelling of a study."""
    from influence_core.cli.showing import show

    show(study or [], port, root, host or [], plugin or [], background, json)


@app.command(hidden=True)
@command
def demo_study(
    out: Annotated[Path | None, typer.Option(help="Folder to write; by default that of the bundled study.")] = None,
    noise: Annotated[float, typer.Option(help="Share of training labels to change, 0 to 1.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the split, the noise and the training.")] = 0,
) -> None:
    """Train the study of handwritten digits and write it; the defaults make the bundled one again."""
    import torch

    from influence_core import demo

    torch.set_num_threads(1)  # sums in one order, so that it is the same to the last bit; this process is ours alone
    study = demo.train_digits(noise, seed)
    result(f"{study.save(demo.BUNDLED if out is None else out)}: {study}, test accuracy {study.accuracy():.3f}")


@app.command(hidden=True)
@command
def demo_results(
    work: Annotated[Path, typer.Option(help="Store to compute them in; what is there is not computed again.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write; by default beside the bundled study.")] = None,
) -> None:
    """Compute the answers that come with the bundled study: of every estimator, on its mistakes."""
    from influence_core import demo
    from influence_core.cli.bundling import bundle
    from influence_core.store.run import RESULTS

    count, size = bundle(demo.digits(), demo.BUNDLED / RESULTS if out is None else out, work)
    result(f"{count} answers, {size:,} bytes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: after ``influence``; by default those of the process.

    Returns:
        The exit code.
    """
    try:
        app(list(sys.argv[1:] if arguments is None else arguments))
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else FAILED
    except KeyboardInterrupt:
        say("stopped by Ctrl-C")
        return STOPPED
    return 0
