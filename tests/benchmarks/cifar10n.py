"""Finding real human label noise: CIFAR-10 with the "worse" labels of CIFAR-10N (Wei et al. 2022, arXiv:2110.12088).

Run ``python -m tests.benchmarks.cifar10n --data FOLDER``; the folder holds ``cifar10n_train.parquet`` (columns image,
label, worse_label) and ``cifar10_test.parquet`` (image, label). The clean test file is cut in two: the first
``--validation`` images tune and judge, the rest is for accuracy alone and is seen by no estimator.

``--size cpu`` (the default) trains a ResNet-10 of 16 channels for 15 epochs; with the seven estimators of the default
list that is about an hour on two cores. ``--size paper`` is the papers' setting for a GPU: ResNet-34, 100 epochs,
batches of 128, learning rate 0.1 (half a cosine to 0, where the paper has steps), weight decay 5e-4. With
``--study FOLDER`` the trained study is kept there, and used again if it is there already.
"""

from __future__ import annotations

import json
import time
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.data import LabelledDataset

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
PAPERS = {"fvm": (96.46, 94.97), "vm": (95.88, 94.27), "gex": (96.20, 94.89)}
"""AUC and AP in per cent that the FVM paper reports for these labels with a ResNet-34; GEX is its own run of it."""

SIZES: dict[str, dict[str, Any]] = {
    "cpu": {"depth": 10, "width": 16, "epochs": 15},
    "paper": {"depth": 34, "width": 64, "epochs": 100},
}
DEFAULT = ["fvm", "gex", "loss", "tracin", "lastlayer", "tunedloss", "labelcontrast"]
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {"cpu": {"gex": {"members": 4}}, "paper": {}}
"""Where a default would take hours."""


def read(folder: Path, validation: int, images: int | None) -> tuple[LabelledDataset, LabelledDataset, LabelledDataset]:
    """Training images with the worse labels, and clean validation and test images that share none."""
    train = _tensors(folder / "cifar10n_train.parquet", "worse_label", "label", images)
    clean = _tensors(folder / "cifar10_test.parquet", "label", None, None)
    if not 0 < validation < len(clean):
        raise typer.BadParameter(f"validation={validation}: between 1 and {len(clean) - 1} images are needed")
    return train, clean.subset(range(validation)), clean.subset(range(validation, len(clean)))


def _tensors(path: Path, label: str, true_label: str | None, images: int | None) -> LabelledDataset:
    data = ic.data.parquet_images(path, label=label, true_label=true_label, mean=MEAN, std=STD, class_names=CLASSES)
    if images is not None:
        data = data.subset(range(min(images, len(data))))
    inputs, labels = data.batch(range(len(data)))  # decoded once
    name = "train" if true_label else "test"
    return LabelledDataset(
        TensorDataset(inputs, labels),
        true_labels=data.true_labels,
        class_names=CLASSES,
        pictures=data.picture,
        name=name,
    )


def cropped_and_flipped(inputs: Tensor) -> Tensor:
    """A random crop after reflecting four pixels at each side, and a random mirror image, for each picture."""
    count, _, height, width = inputs.shape
    padded = torch.nn.functional.pad(inputs, (4, 4, 4, 4), mode="reflect")
    down, right = torch.randint(0, 9, (2, count, 1), device=inputs.device)
    rows = down + torch.arange(height, device=inputs.device)
    columns = right + torch.arange(width, device=inputs.device)
    mirrored = torch.rand(count, 1, device=inputs.device) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    picture = torch.arange(count, device=inputs.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2).contiguous()


def trained(
    folder: Path, size: str, epochs: int | None, validation: int, images: int | None, seed: int, device: str
) -> ic.Study:
    """The study: a residual network trained on the noisy labels."""
    parts = read(folder, validation, images)
    torch.manual_seed(seed)
    recipe = dict(SIZES[size])
    count = epochs or recipe.pop("epochs")
    model = ic.models.build("cifar_resnet", depth=recipe["depth"], width=recipe["width"]).to(device)
    trajectory = ic.training.fit(
        model,
        parts[0],
        epochs=count,
        learning_rate=0.1,
        weight_decay=5e-4,
        batch_size=128,
        augment=cropped_and_flipped,
        checkpoints=min(5, count),
        seed=seed,
    )
    train, clean, test = parts
    return ic.Study(
        model, train, test, clean, trajectory, weight_decay=5e-4, name=f"CIFAR-10N worse, {size}, seed {seed}"
    )


def main(
    data: Annotated[Path, typer.Option(help="Folder of the two Parquet files.")],
    size: Annotated[str, typer.Option(help="cpu, or paper for a GPU.")] = "cpu",
    only: Annotated[list[str] | None, typer.Option(help="Estimators; seven that fit an hour by default.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, batches and augmentation.")] = 0,
    epochs: Annotated[int | None, typer.Option(help="Instead of the size's own.")] = None,
    images: Annotated[int | None, typer.Option(help="Only the first training images.")] = None,
    validation: Annotated[int, typer.Option(help="Clean images to tune on; the rest is the test set.")] = 5000,
    study: Annotated[Path | None, typer.Option(help="Folder to keep the trained study in.")] = None,
    keep: Annotated[Path | None, typer.Option(help="File to append results to, one JSON object a line.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda; cuda where there is one by default.")] = "",
) -> None:
    """Train on the noisy labels, or read the study again, and judge every estimator by the labels known to be wrong."""
    if size not in SIZES:
        raise typer.BadParameter(f"size is {size!r}; choose one of {', '.join(SIZES)}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    begun = time.perf_counter()
    if study is not None and (study / "study.toml").is_file():
        loaded = ic.Study.load(study)
        one = loaded.replaced(model=loaded.model.to(device))
    else:
        one = trained(data, size, epochs, validation, images, seed, device)
        if study is not None:
            one.save(study)
    corrupted = one.train.corrupted
    assert corrupted is not None
    typer.echo(
        f"{one}\n{float(corrupted.double().mean()):.2%} of the given labels are wrong; test accuracy "
        f"{one.accuracy():.1%}, training images whose true label is predicted "
        f"{_right(one.predictions('train'), one.train)[0]:.1f} %, of the wrongly labelled "
        f"{_right(one.predictions('train'), one.train)[1]:.1f} %; {time.perf_counter() - begun:.0f} s"
    )
    typer.echo("\n| estimator | AUC | AP | paper | right after relabelling: all | of the wrong ones | seconds |")
    typer.echo("|---|---|---|---|---|---|---|")
    for name in only or DEFAULT:
        settings = SETTINGS[size].get(name, {})
        try:
            row = _judged(one, name, settings)
        except (ic.InfluenceError, RuntimeError, ValueError):  # one failure must not lose an hour of the others
            traceback.print_exc()
            continue
        typer.echo(_line(row))
        if keep is not None:
            with keep.open("a") as file:
                file.write(json.dumps(row | {"size": size, "seed": seed}) + "\n")


def _judged(study: ic.Study, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = ic.estimators.get(name, **settings).fit(study)
        scores = estimator.mislabel_scores()
    seconds = time.perf_counter() - begun
    found = ic.applications.detect(study, scores)
    title = " ".join([name, *(f"{key}={value}" for key, value in settings.items())])
    row: dict[str, Any] = {"name": name, "title": title, "seconds": seconds, "auc": found.auc, "ap": found.ap}
    row |= {"auc_interval": str(found.auc_interval), "ap_interval": str(found.ap_interval)}
    if "label_influence" in estimator.gives():
        row["right"], row["right_corrupted"] = _right(estimator.label_influence().values.argmax(1), study.train)
    if name == "fvm":
        tuned = study.replaced(model=estimator.model_, trajectory=None)  # type: ignore[attr-defined]
        row["tuned"] = _right(tuned.predictions("train"), study.train)
        row["tuned_accuracy"] = 100 * tuned.accuracy()
    return row


def _right(labels: Tensor, data: LabelledDataset) -> tuple[float, float]:
    assert data.true_labels is not None
    assert data.corrupted is not None
    hits = (labels == data.true_labels).double()
    return 100 * float(hits.mean()), 100 * float(hits[data.corrupted].mean())


def _line(row: dict[str, Any]) -> str:
    paper = " / ".join(f"{value:.2f}" for value in PAPERS[row["name"]]) if row["name"] in PAPERS else ""
    cells = [
        row["title"],
        f"{100 * row['auc']:.1f} ({row['auc_interval']})",
        f"{100 * row['ap']:.1f} ({row['ap_interval']})",
        paper,
        f"{row['right']:.1f}" if "right" in row else "",
        f"{row['right_corrupted']:.1f}" if "right" in row else "",
        f"{row['seconds']:.0f}",
    ]
    lines = [f"| {' | '.join(cells)} |"]
    if "tuned" in row:
        everything, wrong = row["tuned"]
        lines.append(f"| control: argmax p, model tuned by fvm (test accuracy {row['tuned_accuracy']:.1f}) "
                     f"| | | | {everything:.1f} | {wrong:.1f} | |")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
