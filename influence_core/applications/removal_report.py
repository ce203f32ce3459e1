"""Test accuracy against the share of training images removed: a table, a figure and sentences."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from influence_core.applications.trainings import Outcome
from influence_core.threads import uninterrupted

FULL, RANDOM = "all", "random"
"""Names of the controls: nothing removed, and as many images removed at random."""


@dataclass(frozen=True, eq=False)
class Removals:
    """Models trained again without some of the training images.

    Attributes:
        order: "harmful", "valuable" or "pruned": which images went first.
        outcomes: by whose order, "random" first -> number of images removed -> hits and losses on the test set.
        size: number of training images N.
        seeds: the row of each outcome.
        study_name: for a person.
        wrong: likewise, how many of the images removed have labels known to be wrong; empty where the truth is unknown.
    """

    order: str
    outcomes: Mapping[str, Mapping[int, Outcome]]
    size: int
    seeds: Sequence[int]
    study_name: str = "study"
    wrong: Mapping[str, Mapping[int, int]] = field(default_factory=dict, repr=False)

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each order and share.

        Columns: name, share, removed, wrong (labels known to be wrong among them), accuracy and loss (means over seeds
        and test images), gain, low and high (accuracy less that with all images, paired, with its 95 % interval), and
        over_random, random_low and random_high (accuracy less that without as many random images).
        """
        rows = []
        for name, curve in self.outcomes.items():
            for count, outcome in curve.items():
                gain, over = outcome.gain(curve[0]), outcome.gain(self.outcomes[RANDOM][count])
                rows.append(
                    {
                        "name": name,
                        "share": count / self.size,
                        "removed": count,
                        "wrong": self.wrong.get(name, {}).get(count),
                        "accuracy": outcome.accuracy,
                        "loss": outcome.loss,
                        "gain": gain.value,
                        "low": gain.interval.low,
                        "high": gain.interval.high,
                        "over_random": over.value,
                        "random_low": over.interval.low,
                        "random_high": over.interval.high,
                    }
                )
        return pd.DataFrame(rows).astype({"wrong": "Int64"})

    @property
    def area(self) -> pd.Series[float]:
        """Mean of accuracy less that of random removal over the shares removed, by name; what a curve is worth."""
        some = self.table[(self.table["removed"] > 0) & (self.table["name"] != RANDOM)]
        return some.groupby("name", sort=False)["over_random"].mean()

    def figure(self) -> Any:
        """Accuracy against the share removed, a line for each order; see ``ic.figures.removal``."""
        with uninterrupted():
            from influence_core.figures.removal import removal
        titles = {"harmful": "most harmful first", "valuable": "most valuable first", "pruned": "least memorised first"}
        return removal(self.table, f"training images removed, {titles[self.order]}")

    def sentences(self) -> list[str]:
        """What each order did at its best share, or at its worst where valuable images were removed."""
        found = []
        for name in self.outcomes:
            rows = self.table[(self.table["name"] == name) & (self.table["removed"] > 0)]
            if name == RANDOM or not len(rows):
                continue
            row = rows.sort_values("gain", ascending=self.order == "valuable", kind="stable").to_dict("records")[0]
            found.append(
                f"{name}: without {row['removed']:,} images accuracy is {100 * row['accuracy']:.1f} %, "
                f"{100 * row['gain']:+.1f} points (95 %: {100 * row['low']:+.1f} to {100 * row['high']:+.1f}), and "
                f"{100 * row['over_random']:+.1f} (95 %: {100 * row['random_low']:+.1f} to "
                f"{100 * row['random_high']:+.1f}) beside as many removed at random."
            )
        return found

    def __repr__(self) -> str:
        """Orders, shares and seeds."""
        counts = [count for count in self.outcomes[RANDOM] if count]
        return f"Removals({self.order}: {', '.join(self.outcomes)}; {counts} of {self.size}, {len(self.seeds)} seeds)"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences())
        shown = self.table[["name", "removed", "accuracy", "gain", "low", "high", "over_random"]]
        return f"<ul>{said}</ul>" + shown.to_html(index=False, float_format="{:.3f}".format)
