"""What is wrong with labels: another order than the model's, off by one, classes without images, few of a kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from influence_core.diagnosis.finding import Finding
from influence_core.diagnosis.sample import Part
from influence_core.study import Study

GAIN, ENOUGH = 0.3, 0.5
"""Other labels have to raise the accuracy by so much, to so much, before anything is said of an order of classes."""

CLOSE = 0.1
"""A shift explains the labels as well as the best renaming if it is at most so much worse."""

FEW = 24
"""Samples below which no share of them says anything."""

UNEVEN, VERY_UNEVEN = 10, 100
"""The most frequent class against the rarest one: a note, a warning."""


def check_order(parts: Mapping[str, Part]) -> Iterator[Finding]:
    """Labels that the model would predict well if they meant other classes.

    Args:
        parts: samples of the splits.

    Yields:
        One finding, for all splits concerned.
    """
    shifted: dict[int, list[str]] = {1: [], -1: []}
    swapped: list[str] = []
    shares: list[str] = []
    for name, part in parts.items():
        if part.outputs is None or part.labels is None or len(part) < FEW:
            continue
        classes = part.outputs.shape[1]
        predicted, labels = part.outputs.argmax(1), part.labels
        now = float((predicted == labels).double().mean())
        shift = max((1, -1), key=lambda s: float((predicted + s == labels).double().mean()))
        then = float((predicted + shift == labels).double().mean())
        best = _matched(predicted, labels, classes)
        if then >= max(ENOUGH, now + GAIN, best - CLOSE):
            shifted[shift].append(name)
            shares.append(f"{name}: {now:.0%} of labels are predicted as they are, {then:.0%} with the shift undone")
            continue
        if len(part) >= 4 * classes and best >= max(ENOUGH, now + GAIN):
            swapped.append(name)
            shares.append(f"{name}: {now:.0%} of labels are predicted as they are, {best:.0%} with other names")
    for shift, names in shifted.items():
        if names:
            which, sign = " and ".join(names), "-" if shift > 0 else "+"
            mends = "; ".join(f"{n} = {n}.with_labels({n}.labels {sign} 1)" for n in names)
            yield Finding(
                "labels-shifted",
                "error",
                f"the labels of {which} are off by one: each is the model's class {'+' if shift > 0 else '-'} 1 "
                f"({'; '.join(shares)})",
                "every loss and gradient is that of a wrong class, so no score means anything",
                mends,
            )
            return
    if swapped:
        yield Finding(
            "classes-in-another-order",
            "error",
            f"the labels of {' and '.join(swapped)} number the classes in another order than the model "
            f"({'; '.join(shares)})",
            "every loss and gradient is that of a wrong class, so no score means anything",
            "give the classes in the order of the model's outputs: class_names=[...] of ic.data.image_folder or "
            "image_table",
        )


def _matched(predicted: Tensor, labels: Tensor, classes: int) -> float:
    """The best accuracy that any renaming of the classes gives."""
    from scipy.optimize import linear_sum_assignment

    counts = torch.zeros(classes, classes, dtype=torch.int64)
    counts.index_put_((predicted, labels), torch.ones_like(labels), accumulate=True)
    rows, columns = linear_sum_assignment(counts.numpy(), maximize=True)
    return float(counts[rows, columns].sum()) / len(labels)


def check_balance(study: Study) -> Iterator[Finding]:
    """Classes without training images, and classes with few.

    Args:
        study: only its labels are read.

    Yields:
        One finding at most.
    """
    if study.classes is None:
        return
    counts = torch.bincount(study.train.labels, minlength=study.classes)
    names = study.class_names
    empty = [names[k] for k in (counts == 0).nonzero().flatten().tolist()]
    if empty:
        shown = ", ".join(empty[:6]) + (f" and {len(empty) - 6} more" if len(empty) > 6 else "")
        yield Finding(
            "classes-empty",
            "warning",
            f"{len(empty)} of {study.classes} classes have no training image: {shown}",
            "nothing in the training set can explain an answer of these classes; or the labels begin at 1 instead of 0",
            "train = train.with_labels(...) with labels from 0 to K - 1, or a model with as many outputs as classes",
        )
        return
    rarest, commonest = int(counts.argmin()), int(counts.argmax())
    times = float(counts[commonest]) / float(counts[rarest])
    if times > UNEVEN:
        yield Finding(
            "classes-uneven",
            "warning" if times > VERY_UNEVEN else "note",
            f"class {names[commonest]} has {int(counts[commonest]):,} training images, {names[rarest]} "
            f"{int(counts[rarest]):,}: {times:.0f} times as many",
            "scores of rare classes rest on few images, and one threshold for all classes flags mostly rare ones",
            f"train = train.subset(ids) with fewer of {names[commonest]}, or judge classes one by one: "
            "ic.applications.detect(...).within(ids)",
        )
