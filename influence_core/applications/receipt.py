"""Receipts: what an estimator said a change of the training set would do, and what training again showed later.

Each is a sealed JSON file in the folder of a store, written whole or not at all, and is never removed to make room.
What receipts have shown so far says how far the next prediction can be trusted.
"""

from __future__ import annotations

import dataclasses
import html
import json
import math
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from influence_core.errors import DamageWarning, InvalidInput
from influence_core.estimators.registry import title_of
from influence_core.progress import counted
from influence_core.store import Store
from influence_core.store.place import folder_at
from influence_core.store.sealed import read_sealed, write_sealed
from influence_core.store.task import key_of

Action = Literal["remove", "relabel", "reweight"]
How = Literal["influence", "edit"]

DONE: dict[Action, str] = {"remove": "Leaving out", "relabel": "Relabelling", "reweight": "Weighting anew"}
"""What was done to the images, at the head of a sentence."""

FOLDER = "receipts"
"""In the folder of a store."""

_VERSION = 2
_QUESTION = ("study", "estimator", "parameters", "action", "ids", "labels", "weights", "how", "step", "test_ids")
"""What a receipt is about: a later one about the same takes its place."""


@dataclass(frozen=True, repr=False)
class Receipt:
    """A predicted effect on every test image, and the one that training again showed.

    Attributes:
        study: fingerprint of the study.
        study_name: for a person.
        estimator: name, as in ``ic.estimators.get``.
        parameters: its hyper-parameters.
        action: "remove", "relabel" or "reweight".
        ids: training images that it is about.
        labels: their new labels; empty unless they are relabelled.
        weights: the new weights of their losses; empty unless they are reweighted.
        how: "influence", the sum of scores, or "edit", the loss of the edited model.
        scale: of the prediction, "nats" or "rank only".
        test_ids: test image of each number below.
        predicted: change of the loss, above 0 where it rises, [M].
        actual: mean change over the seeds, in nats, [M]; ``None`` until it was verified.
        noise: its standard error, [M]; ``None`` with fewer than two seeds.
        shared: standard error of the mean of ``actual`` over the test images, which all of them share.
        step: the share of the estimator's edit that the prediction goes; ``None`` where it gives no edit.
        seeds: of the trainings.
        retrain: what trained, "recipe" or a name.
        accuracy: of the trained models before and after, 0 to 1; ``None`` until verified, and without classes.
        made: when, ISO 8601 in UTC.

    Raises:
        InvalidInput: if lengths do not fit, or a number is NaN or infinite.
    """

    study: str
    study_name: str
    estimator: str
    parameters: Mapping[str, Any]
    action: Action
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    weights: tuple[float, ...]
    how: How
    scale: str
    test_ids: tuple[int, ...]
    predicted: tuple[float, ...]
    actual: tuple[float, ...] | None = None
    noise: tuple[float, ...] | None = None
    shared: float | None = None
    step: float | None = None
    seeds: tuple[int, ...] = ()
    retrain: str = ""
    accuracy: tuple[float, float] | None = None
    made: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def __post_init__(self) -> None:
        """Check lengths and numbers; sequences become tuples, as a file gives them back."""
        for name in ("ids", "labels", "weights", "test_ids", "predicted", "actual", "noise", "seeds", "accuracy"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        object.__setattr__(self, "parameters", json.loads(json.dumps(dict(self.parameters), default=str)))
        if self.action not in get_args(Action) or self.how not in get_args(How):
            raise InvalidInput(f"a receipt about {self.action!r} by {self.how!r}; choose of {get_args(Action)}")
        for name in ("predicted", "actual", "noise"):
            value = getattr(self, name)
            if value is not None and (len(value) != len(self.test_ids) or not all(map(math.isfinite, value))):
                raise InvalidInput(f"{name} has {len(value)} numbers for {len(self.test_ids)} test images, all finite")

    @property
    def verified(self) -> bool:
        """Whether training again has shown what happens."""
        return self.actual is not None

    @property
    def key(self) -> str:
        """Name of what it is about: 32 hexadecimal digits."""
        facts = self.to_dict()
        return key_of({name: facts[name] for name in _QUESTION})

    def sentences(self) -> list[str]:
        """What was said, and what happened, in plain sentences."""
        nats = self.scale == "nats"
        what = f"{DONE[self.action].lower()} {counted(len(self.ids), 'training image')}"
        said = f"{title_of(self.estimator)} says that {what} "
        falls = sum(change < 0 for change in self.predicted)
        lowers = (
            f"lowers the loss of {falls:,} of {counted(len(self.predicted), 'test image')}, by nobody knows how much."
        )
        found = [said + (f"changes the mean test loss by {_mean(self.predicted):+.3g} nats." if nats else lowers)]
        if self.actual is None:
            return [
                *found,
                "Nobody has trained again so far: .verify(seeds, store) on what ic.applications.what_if gives.",
            ]
        alike = sum(p * a > 0 for p, a in zip(self.predicted, self.actual, strict=True))
        found.append(
            f"Trained with and without ({counted(len(self.seeds), 'seed')}), it changes by {_mean(self.actual):+.3g} "
            f"nats; {alike:,} of {len(self.predicted):,} losses move the way that was said."
        )
        if self.accuracy is not None:
            before, after = self.accuracy
            found.append(f"Test accuracy goes from {100 * before:.1f} to {100 * after:.1f} %.")
        return found

    def __repr__(self) -> str:
        """The sentences; ``to_dict`` has all numbers."""
        return f"Receipt({' '.join(self.sentences())})"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences())

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        facts = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in facts.items()}

    def save(self, store: Store) -> Path:
        """Keep it in the folder of a store, in the place of an earlier one about the same.

        One that was verified stays where this one is not, or by fewer seeds.

        Args:
            store: whose folder; its budget does not count receipts.

        Returns:
            The file.
        """
        path = folder_at(store.path / FOLDER) / f"{self.key}.json"
        seeds = 0
        if path.is_file():
            with suppress(InvalidInput):  # a damaged one is nothing to keep
                seeds = len(Receipt.load(path).seeds)
        if len(self.seeds) >= seeds:
            write_sealed(path, {"version": _VERSION, **self.to_dict()})
        return path

    @classmethod
    def load(cls, path: str | Path) -> Receipt:
        """Read what ``save`` wrote.

        Args:
            path: the file.

        Returns:
            The receipt.

        Raises:
            InvalidInput: if the file is damaged, or holds no receipt of this version.
        """
        facts = read_sealed(Path(path))
        version = facts.pop("version", None)
        if version != _VERSION or facts.keys() != {one.name for one in dataclasses.fields(cls)}:
            raise InvalidInput(f"{path} holds no receipt of version {_VERSION}: remove it")
        try:
            return cls(**facts)
        except InvalidInput:
            raise
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"{path} holds no receipt: {error}") from error


def receipts(
    store: Store, study: str | None = None, estimator: str | None = None, key: str | None = None
) -> list[Receipt]:
    """The receipts that a store keeps, the oldest first; one that is damaged or of another version is passed over.

    Args:
        store: whose folder.
        study: fingerprint of the only study to take.
        estimator: name of the only estimator to take.
        key: of the only receipt to take; no other file is read then.

    Returns:
        The receipts.
    """
    found = []
    for path in sorted((store.path / FOLDER).glob("*.json" if key is None else f"{key}.json")):
        try:
            found.append(Receipt.load(path))
        except InvalidInput as error:
            warnings.warn(f"a receipt is passed over: {error}", DamageWarning, stacklevel=2)
    wanted = [r for r in found if study in (None, r.study) and estimator in (None, r.estimator)]
    return sorted(wanted, key=lambda receipt: (receipt.made, receipt.key))


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / max(1, len(values))
