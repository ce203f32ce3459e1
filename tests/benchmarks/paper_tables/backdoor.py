"""A backdoor on the digits and what mends it: Table 3 of the paper on generalized influence functions.

The paper's trigger, a faint chequerboard over the whole image, is in 30 % of the training images, which are called 4.
With the demo's twelve epochs the network has not yet learnt the digits beside the trigger (86 % on the test set); with
twenty-four it has. Edits are told which images are planted and what they show; their scale is chosen by the share of
these new labels that is taken over and by the validation set, which has no trigger, or by the training loss alone
(``ic.applications.trusted_step``).
"""

from __future__ import annotations

import time
import warnings

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core.data import LabelledDataset
from influence_core.models import model_outputs
from tests.benchmarks.editing import DAMPED, FINE, edited, edits
from tests.benchmarks.paper_tables.shared import Case, Cells, Rows, fitted, trained_on, without

TARGET, PLANTED, EPOCHS = 4, 0.3, 24
"""The label of the trigger, the share of training images that have it, and epochs of the demo's recipe."""

ITERATIONS = 5
"""Of GIF, FIF and PIF: here more of them leave less of the network, for a long step goes along its flat directions."""

BETWEEN = {"ekfac damping=0.1": "ekfac damping=0.1"}
"""EK-FAC's own damping is 0.01."""

DETECTORS = ("labelcontrast", "relationgraph")
"""Whose suggestions and threshold are taken without a review."""


def triggered(inputs: Tensor) -> Tensor:
    """Images [N, 1, 8, 8] in 0..1 with a faint chequerboard over them."""
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    return (inputs + 0.25 * board).clamp(0, 1)


def backdoored(seed: int, images: int = 1000) -> tuple[ic.Study, Tensor]:
    """A study with the trigger in some of its training images, which are called 4, and their ids."""
    splits = ic.data.digits(0.0, seed)
    inputs, labels = splits.train.batch(range(images))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    planted = order[: round(PLANTED * len(labels))].sort().values
    seen, given = inputs.clone(), labels.clone()
    seen[planted], given[planted] = triggered(inputs[planted]), TARGET
    names = splits.train.class_names
    train = LabelledDataset(TensorDataset(seen, given), true_labels=labels, class_names=names, name="train")
    recipe = ic.demo.RECIPE | {"epochs": EPOCHS}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ic.models.build("small_cnn", channels=1, classes=10)
        trajectory = ic.training.fit(model, train, seed=seed, **recipe)
    decay = recipe["weight_decay"]
    return ic.Study(model, train, splits.test, splits.validation, trajectory, weight_decay=decay), planted


def recovered(study: ic.Study, model: torch.nn.Module) -> Cells:
    """How often the trigger makes a 4 of another test image, accuracy on all of them with it, and without it."""
    inputs, labels = study.test.batch(range(len(study.test)))
    seen = LabelledDataset(TensorDataset(triggered(inputs), labels), name="test")
    told, plain = (model_outputs(model, data).argmax(1) for data in (seen, study.test))
    hits = {
        "trigger success": (told == TARGET)[labels != TARGET],
        "accuracy with the trigger": told == labels,
        "test accuracy": plain == labels,
    }
    return {name: 100 * float(hit.double().mean()) for name, hit in hits.items()}


def retrained(study: ic.Study, train: LabelledDataset, seed: int) -> Cells:
    """The model trained again on other data, by its recipe."""
    begun = time.perf_counter()
    return recovered(study, trained_on(study, train, seed)) | {"seconds": time.perf_counter() - begun}


def detected(study: ic.Study, planted: Tensor, name: str, seed: int) -> Rows:
    """What a detector flags, by its own threshold: with the labels that it suggests, and left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = ic.applications.relabel(study, fitted(study, name))
    flagged = torch.tensor(table["index"][table["is_label_issue"]].tolist(), dtype=torch.long)
    counts = {"flagged": float(len(flagged)), "planted among them": float(torch.isin(flagged, planted).sum())}
    mended = ic.applications.apply_relabels(study.train, table, accept="flagged")
    yield f"{name}, flagged relabelled, retrained", retrained(study, mended, seed) | counts
    yield f"{name}, flagged removed, retrained", retrained(study, without(study.train, flagged), seed) | counts


def table3(case: Case) -> Rows:
    study, planted = backdoored(case.seed, case.images)
    true = study.train.true_labels
    assert true is not None
    yield "control: no edit", recovered(study, study.model)
    nothing = torch.tensor([], dtype=torch.long)
    labels = {int(i): int(true[i]) for i in planted if true[i] != TARGET}
    ways = {"": (nothing, labels), ", removed": (planted, None)}
    for name in ("ekfac", "ekfac damping=0.1", "lastlayer"):
        model, scale, seconds = edited(study, name, nothing, labels, None)
        yield f"{name}, trusted step", recovered(study, model) | {"scale": scale, "seconds": seconds}
    for title, name in (edits((0.1, 0.3, 0.5), ITERATIONS) | BETWEEN | DAMPED).items():
        for way, (removed, relabelled) in ways.items():
            if way and not title.startswith("ekfac"):
                continue
            model, scale, seconds = edited(study, name, removed, relabelled, FINE)
            yield title + way, recovered(study, model) | {"scale": scale, "seconds": seconds}
    yield "retrained, relabelled", retrained(study, study.train.with_labels(true), case.seed)
    yield "retrained, removed", retrained(study, without(study.train, planted), case.seed)
    for name in DETECTORS:
        yield from detected(study, planted, name, case.seed)
