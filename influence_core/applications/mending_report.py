"""What mending did and gained: a table, a figure, sentences, and the study with the mended labels and model."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from influence_core.applications.labelling import Labelling
from influence_core.applications.paired import Gain
from influence_core.applications.retraining import mended_name
from influence_core.applications.trainings import Outcome
from influence_core.errors import InvalidInput, NotSupported, StaleResult
from influence_core.identity import check_identified
from influence_core.models import load_tensors, read_facts, save_tensors
from influence_core.progress import counted
from influence_core.store.trained import study_with
from influence_core.study import Study
from influence_core.threads import uninterrupted

ARMS = {
    "given": "labels as they were",
    "mended": "mended",
    "random": "as many changed at random",
    "checked": "as many checked at random",
    "same": "true labels of the same images",
    "clean": "true labels of all",
}
"""What models are trained on, and how a person reads it."""


@dataclass(frozen=True, eq=False)
class Mending:
    """The report of ``mend``.

    Attributes:
        outcomes: hits and losses on the test set by what was trained on, in the order of ``ARMS``.
        changes: likewise, images relabelled and left out, with the first seed.
        seeds: the row of each outcome.
        images: a row for each image that changed: train_id, action, given_label, new_label, true_label (empty where
            unknown), score (mislabel score, large: probably wrong) and harm (minus its influence on the mistakes).
        labels: of all training images afterwards, int64 [N].
        keep: which of them stay, bool [N].
        fingerprint: of the study that was mended.
        facts: mistakes, harmful, suspicious, threshold, estimator, source, among, by, seconds, study_name.
        weights: of the mended model.
        original: the study that was mended; not saved.
    """

    outcomes: Mapping[str, Outcome]
    changes: Mapping[str, Sequence[int]]
    seeds: Sequence[int]
    images: pd.DataFrame = field(repr=False)
    labels: Tensor = field(repr=False)
    keep: Tensor = field(repr=False)
    fingerprint: str
    facts: Mapping[str, Any]
    weights: Mapping[str, Tensor] = field(repr=False)
    original: Study | None = field(default=None, repr=False)

    @property
    def gain(self) -> Gain:
        """Test accuracy with the mended labels less that with the given ones, paired."""
        return self.gain_over("given")

    def gain_over(self, name: str) -> Gain:
        """Test accuracy with the mended labels less that with others, paired over test images and seeds.

        Args:
            name: of ``outcomes``.

        Returns:
            The gain, -1 to 1, with its 95 % interval.

        Raises:
            InvalidInput: if nothing of that name was trained.
        """
        if name not in self.outcomes:
            raise InvalidInput(f"nothing was trained on {name!r}; there are {', '.join(self.outcomes)}")
        return self.outcomes["mended"].gain(self.outcomes[name])

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each kind of labels.

        Columns: name, labels, relabelled, excluded, accuracy and loss (means over seeds and test images), gain, low and
        high (accuracy less that of the given labels, with its interval), and mended_gain, mended_low and mended_high
        (accuracy of the mended labels less that of the row).
        """
        rows = []
        for name, outcome in self.outcomes.items():
            gain, over = outcome.gain(self.outcomes["given"]), self.gain_over(name)
            relabelled, excluded = self.changes[name]
            rows.append(
                {
                    "name": name,
                    "labels": ARMS[name],
                    "relabelled": relabelled,
                    "excluded": excluded,
                    "accuracy": outcome.accuracy,
                    "loss": outcome.loss,
                    "gain": gain.value,
                    "low": gain.interval.low,
                    "high": gain.interval.high,
                    "mended_gain": over.value,
                    "mended_low": over.interval.low,
                    "mended_high": over.interval.high,
                }
            )
        return pd.DataFrame(rows)

    @property
    def study(self) -> Study:
        """The study with the mended labels, and the mended model, of the first seed where it was trained again.

        Raises:
            NotSupported: if the report was loaded without its study.
        """
        return self._study

    @cached_property
    def _study(self) -> Study:
        if self.original is None:
            raise NotSupported("the report was loaded without its study: give it, Mending.load(path, study)")
        data = Labelling(self.labels, self.keep).data(self.original.train)
        return study_with(self.original, self.weights, data, mended_name(self.original))

    def figure(self) -> Any:
        """The gain over the given labels of every row, with its interval; see ``ic.figures.gains``."""
        with uninterrupted():
            from influence_core.figures.gains import gains
        rows = self.table[self.table["name"] != "given"]
        tones = {"mended": "main"}
        names = [
            f"{label} ({relabelled + excluded:,})"
            for label, relabelled, excluded in zip(rows["labels"], rows["relabelled"], rows["excluded"], strict=True)
        ]
        values = rows[["gain", "low", "high"]].reset_index(drop=True)
        return gains(values.assign(name=names, tone=[tones.get(name, "quiet") for name in rows["name"]]))

    def sentences(self) -> list[str]:
        """What was done and what it gained, in plain sentences, with what they cannot say at the end."""
        relabelled, excluded = self.changes["mended"]
        before, after = self.outcomes["given"], self.outcomes["mended"]
        how = (
            f"{counted(len(self.seeds), 'training')} each"
            if self.facts["by"] == "retraining"
            else "by a change of the weights"
        )
        found = [self._what_led_here()] if "harmful" in self.facts else []
        found.append(
            f"{relabelled:,} training images were relabelled and {excluded:,} left out{self._right()}; test accuracy "
            f"goes from {100 * before.accuracy:.1f} to {100 * after.accuracy:.1f} %: {self.gain} ({how})."
        )
        for name, words in (
            ("random", "As many images changed at random give {0:.1f} %"),
            ("checked", "True labels of as many images, drawn at random, give {0:.1f} %"),
            ("same", "True labels of the same images give {0:.1f} %"),
            ("clean", "True labels of all images give {0:.1f} %"),
        ):
            if name in self.outcomes:
                said = words.format(100 * self.outcomes[name].accuracy)
                found.append(f"{said}; mending less that is {self.gain_over(name)}.")
        return found + self.caveats()

    def caveats(self) -> list[str]:
        """What the numbers cannot say, in plain sentences."""
        found = []
        if self.facts["by"] == "edit":
            found.append("The model was edited, not trained again: what training would gain may differ.")
        elif len(self.seeds) < 3:
            found.append(f"{counted(len(self.seeds), 'seed')}: the interval hardly counts the luck of training.")
        if self.facts["among"] == "harmful":
            found.append("The mistakes on the test set chose the images, so that the gain on the same set is too good.")
        if not self.gain.sure:
            found.append("The interval of the gain has 0 in it: mending these labels may have changed nothing.")
        return found

    def _what_led_here(self) -> str:
        mistakes, harmful = self.facts["mistakes"], self.facts["harmful"]
        said = f"{mistakes:,} test images are misclassified, and {harmful:,} training images harm them on balance"
        if "harm" in self.images and len(self.images) and not self.images["harm"].isna().all():
            said += (
                f", {int((self.images['harm'] > 0).sum()):,} of the {len(self.images):,} that were changed among them"
            )
        return said + "."

    def _right(self) -> str:
        new = self.images[self.images["action"] == "relabel"] if len(self.images) else self.images
        if not len(new) or bool((new["true_label"] == "").all()):
            return ""
        return f", {int((new['new_label'] == new['true_label']).sum()):,} of the new labels right"

    def __str__(self) -> str:
        """The sentences, one a line."""
        return "\n".join(self.sentences())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        shown = ("labels", "changed", "accuracy", "gain over the given labels")
        cells = ["".join(f"<th>{head}</th>" for head in shown)]
        for name, outcome in self.outcomes.items():
            gain = "" if name == "given" else str(outcome.gain(self.outcomes["given"]))
            words = (ARMS[name], f"{sum(self.changes[name]):,}", f"{100 * outcome.accuracy:.1f} %", gain)
            cells.append("".join(f"<td>{html.escape(word)}</td>" for word in words))
        table = "".join(f"<tr>{row}</tr>" for row in cells)
        said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences())
        return f"<p>{html.escape(str(self.facts['study_name']))}: mended</p><table>{table}</table><ul>{said}</ul>"

    def save(self, path: str | Path) -> None:
        """Write everything but the images of the study as one safetensors file.

        Args:
            path: file to write.
        """
        if self.original is not None:
            check_identified(self.original.unidentified, "a report of mending")
        columns = {name: [_plain(cell) for cell in self.images[name]] for name in self.images}
        facts = {
            "changes": {name: list(pair) for name, pair in self.changes.items()},
            "seeds": list(self.seeds),
            "images": columns,
            "fingerprint": self.fingerprint,
            "facts": dict(self.facts),
        }
        tensors = {"labels": self.labels, "keep": self.keep}
        tensors |= {f"model/{name}": tensor for name, tensor in self.weights.items()}
        for name, outcome in self.outcomes.items():
            tensors |= {f"right/{name}": outcome.right, f"losses/{name}": outcome.losses}
        save_tensors(path, tensors, {"mending": json.dumps(facts)})

    @classmethod
    def load(cls, path: str | Path, study: Study | None = None) -> Mending:
        """Read what ``save`` wrote.

        Args:
            path: the file.
            study: that was mended, for ``.study``.

        Returns:
            The report.

        Raises:
            InvalidInput: if the file holds no report.
        """
        tensors, facts = load_tensors(path), read_facts(path, "mending")
        if facts is None or not {"labels", "keep", "right/given", "right/mended"} <= tensors.keys():
            raise InvalidInput(f"{path} holds no report of mending; write one with Mending.save")
        try:
            images = pd.DataFrame(facts["images"])
            found = cls(
                outcomes={n: Outcome(tensors[f"right/{n}"], tensors[f"losses/{n}"]) for n in facts["changes"]},
                changes=facts["changes"],
                seeds=facts["seeds"],
                images=images.astype({"score": float, "harm": float}) if len(images) else images,
                labels=tensors["labels"],
                keep=tensors["keep"],
                fingerprint=facts["fingerprint"],
                facts=facts["facts"],
                weights={n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"{path} holds a report of mending that is not whole: {error!r}") from error
        return found if study is None else found.of(study)

    def of(self, study: Study) -> Mending:
        """The report with its study.

        Args:
            study: that was mended.

        Returns:
            A report whose ``.study`` is there.

        Raises:
            StaleResult: if another one was mended.
        """
        if study.fingerprint != self.fingerprint:
            raise StaleResult(f"this report is about another study than {study.name!r}: mend it anew")
        return replace(self, original=study)


def _plain(cell: Any) -> Any:
    """A cell of a table as JSON has it."""
    value = cell.item() if isinstance(cell, torch.Tensor) or hasattr(cell, "item") else cell
    return None if isinstance(value, float) and not math.isfinite(value) else value
