"""Pictures that are there twice: within the training set, and in training and test set, which is a leak."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from influence_core.data import lookalikes, small_pictures
from influence_core.diagnosis.finding import Finding
from influence_core.diagnosis.sample import affordable, spread
from influence_core.errors import NotSupported
from influence_core.study import Study

VALUES = 60_000_000
"""Numbers of all inputs of a split that are looked through for copies by default."""

MOST = 20_000
_SHOWN = 4
_LISTED = 12
_TWICE = "{j for _, j, _ in ic.data.lookalikes(ic.data.small_pictures(train))}"
_LEAKED = "{i for i, _, _ in ic.data.lookalikes(*map(ic.data.small_pictures, (test, train)))}"


def check_copies(study: Study, whole: bool, facts: dict[str, Any]) -> Iterator[Finding]:
    """Copies within the training set, and of test images in it.

    Args:
        study: only read.
        whole: look at all images.
        facts: is told how many were looked at.

    Yields:
        One finding of each kind at most.
    """
    splits = [study.train, study.test]
    counts = [len(d) if whole else min(len(d), MOST, affordable(d, VALUES)) for d in splits]
    try:
        train, test = (small_pictures(d, spread(len(d), n)) for d, n in zip(splits, counts, strict=True))
    except NotSupported:
        return
    facts["looked_for_copies"] = ", ".join(f"{n:,} of {len(d):,} {d.name}" for d, n in zip(splits, counts, strict=True))
    inside, leaked = lookalikes(train), lookalikes(test, train)
    rest = "" if counts == [len(d) for d in splits] else " (of those looked at; sample=None looks at all)"
    if leaked:
        tests = sorted({i for i, _, _ in leaked})
        yield Finding(
            "test-in-training",
            "warning",
            f"{len(tests):,} of {counts[1]:,} test images are in the training set too, {_kinds(leaked)}: "
            f"{_pairs(leaked, study, 'test', 'train')}{rest}",
            "the model may know their labels by heart: the accuracy is too high, and such a copy is the explanation",
            f"test = test.subset([i for i in range(len(test)) if i not in {_listed(tests, _LEAKED)}])",
        )
    if inside:
        labels = study.train.labels
        apart = [p for p in inside if int(labels[p[0]]) != int(labels[p[1]])]
        later = sorted({j for _, j, _ in inside})
        shown = apart or inside
        conflict = f", {len(apart):,} of them with two different labels" if apart else ""
        yield Finding(
            "training-twice",
            "warning" if apart else "note",
            f"{len(inside):,} pairs of training images are one picture{conflict}, {_kinds(inside)}: "
            f"{_pairs(shown, study, 'train', 'train')}{rest}",
            ("one of two different labels is wrong, and " if apart else "")
            + "the influence of a picture is shared out among its copies",
            f"train = train.subset([i for i in range(len(train)) if i not in {_listed(later, _TWICE)}])",
        )


def _kinds(pairs: list[tuple[int, int, float]]) -> str:
    exact = sum(likeness == 2.0 for _, _, likeness in pairs)
    parts = [f"{exact:,} to the last value"] * (exact > 0) + [f"{len(pairs) - exact:,} nearly"] * (exact < len(pairs))
    return " and ".join(parts)


def _pairs(pairs: list[tuple[int, int, float]], study: Study, one: str, other: str) -> str:
    shown = [
        f"{one} {i} ({study.split(one).label_text(i)}) = {other} {j} ({study.split(other).label_text(j)})"
        for i, j, _ in pairs[:_SHOWN]
    ]
    return "; ".join(shown) + (f" and {len(pairs) - _SHOWN:,} more" if len(pairs) > _SHOWN else "")


def _listed(ids: list[int], found: str) -> str:
    """A set of ids as Python; of many, where it comes from."""
    return "{" + ", ".join(map(str, ids)) + "}" if len(ids) <= _LISTED else found
