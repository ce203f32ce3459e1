"""Edited models side by side: a table, a figure and sentences."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd
from torch import Tensor

from influence_core.applications.paired import paired
from influence_core.estimators import modified_f1
from influence_core.progress import counted
from influence_core.study import Study
from influence_core.threads import uninterrupted

NONE, AGAIN = "no edit", "trained again"
"""Names of the controls."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What one model makes of a change.

    Attributes:
        name: of the row.
        scale: how far its edit went; ``None`` of a control.
        done: of each image that goes or gets another label, whether the change is done, bool [n].
        kept: of each other training image, whether its label is predicted, bool [N - n].
        right: of each test image of the classes that are left, bool [S, M]; a row for each seed that was trained.
        before: likewise without an edit, [1, M].
        seconds: that it took.
    """

    name: str
    scale: float | None
    done: Tensor
    kept: Tensor
    right: Tensor
    before: Tensor
    seconds: float

    def row(self) -> dict[str, Any]:
        """As a row of the table."""
        forgotten, accuracy = float(self.done.double().mean()), float(self.right.double().mean())
        gain = paired(self.right.double() - self.before.double())
        first, before = self.right[0], self.before[0]
        return {
            "name": self.name,
            "scale": self.scale,
            "done": forgotten,
            "train_accuracy": float(self.kept.double().mean()) if len(self.kept) else None,
            "test_accuracy": accuracy,
            "gain": gain.value,
            "low": gain.interval.low,
            "high": gain.interval.high,
            "mended": int((first & ~before).sum()),
            "broken": int((~first & before).sum()),
            "modified_f1": modified_f1(1 - forgotten, accuracy),
            "seconds": self.seconds,
        }


@dataclass(frozen=True, eq=False)
class Edits:
    """What ``compare_edits`` found.

    Attributes:
        rows: a model each: the one that there was, the edited ones, and the one that was trained again.
        studies: by name, the study with the edited model, or, first seed, with the one that was trained again.
        removed: number of training images that go.
        relabelled: number of those with another label.
        seeds: of the trainings.
        gone: names of the classes of which no training image is left; their test images do not count.
        study_name: for a person.
    """

    rows: tuple[Judged, ...] = field(repr=False)
    studies: Mapping[str, Study] = field(repr=False)
    removed: int
    relabelled: int
    seeds: tuple[int, ...] = ()
    gone: tuple[str, ...] = ()
    study_name: str = "study"

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each model, those without an edit first and trained again last.

        Columns: name, scale (share of the edit that was gone), done (share of the images concerned of which the given
        label is no longer predicted, or the new one is), train_accuracy (on the other training images), test_accuracy
        (of classes that are left, mean over seeds), gain, low and high (of that over no edit, paired, with its 95 %
        interval), mended and broken (test images, first seed), modified_f1 and seconds.
        """
        return pd.DataFrame([judged.row() for judged in self.rows])

    def figure(self) -> Any:
        """The share of images that are dealt with, beside test accuracy; see ``ic.figures.edits``."""
        with uninterrupted():
            from influence_core.figures.edits import edits
        return edits(self.table)

    def sentences(self) -> list[str]:
        """What each model does, in plain sentences."""
        what = [
            f"{counted(count, 'training image')} {words}"
            for count, words in ((self.removed, "left out"), (self.relabelled, "relabelled"))
            if count
        ]
        found = [f"{' and '.join(what)}."]
        if self.gone:
            found[0] += f" Test images called {', '.join(self.gone)} do not count: none of their class is left."
        for row in self.table.to_dict("records"):
            said = (
                f"{row['name']}: the change is done for {100 * row['done']:.0f} % of them, test accuracy is "
                f"{100 * row['test_accuracy']:.1f} %"
            )
            if row["name"] != NONE:
                said += (
                    f" ({100 * row['gain']:+.1f} points, 95 %: {100 * row['low']:+.1f} to {100 * row['high']:+.1f}; "
                    f"{row['mended']:,} mended, {row['broken']:,} broken)"
                )
            found.append(f"{said}, modified F1 {100 * row['modified_f1']:.1f}.")
        return found

    def __repr__(self) -> str:
        """Names and numbers."""
        names = ", ".join(judged.name for judged in self.rows)
        return f"Edits({names}; {self.removed} left out, {self.relabelled} relabelled)"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences())
        return f"<ul>{said}</ul>" + self.table.to_html(index=False, float_format="{:.3g}".format, na_rep="")
