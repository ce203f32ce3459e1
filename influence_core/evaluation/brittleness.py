"""How few training images a prediction hangs on: removed along a ranking and trained anew, until it turns over."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from influence_core.errors import InvalidInput
from influence_core.estimators import Estimator
from influence_core.evaluation.removal_order import check_predictions, removal_order, with_every_label
from influence_core.evaluation.retraining import Retrain, chosen_ids, retrain_subsets, some_seeds
from influence_core.pieces import parts
from influence_core.scores import Scores
from influence_core.store import Store
from influence_core.study import Study

FLIPPED, WITHIN, ITSELF = "flipped", "not within the limit", "flips by itself"
"""What ``status`` says: turned over by a removal, by none that was tried, or by training anew alone."""


@dataclass(frozen=True, eq=False)
class Brittleness:
    """How many training images had to go until a prediction turned over.

    Attributes:
        name: of the estimator that ranks them.
        table: one row for each test image: test_id, label and prediction (class names), status, k (images removed;
            missing unless flipped), share (of the seeds that hold the prediction with all images, those that flipped
            without the k, or without the most that was tried), held (share of all seeds that hold it with all images),
            predicted_k (by the sum of influences; missing where that is not defined, or no number does) and becomes
            (the class that most of the flipped seeds say; missing unless flipped).
        tried: what was trained, one row each: test_id, k and share.
        limit: the most that was removed.
        seeds: of the trainings.
        order: training images from the one that holds the prediction most, int64 [M, limit].
    """

    name: str
    table: pd.DataFrame
    tried: pd.DataFrame = field(repr=False)
    limit: int
    seeds: tuple[int, ...]
    order: Tensor = field(repr=False)

    def removed(self, test_id: int) -> list[int]:
        """The training images whose removal turned a prediction over.

        Args:
            test_id: of the test image.

        Returns:
            Ids, the one that holds it most first; empty unless it flipped.

        Raises:
            InvalidInput: if the image was not looked at.
        """
        at = (self.table["test_id"] == test_id).to_numpy().nonzero()[0]
        if not len(at):
            raise InvalidInput(f"test image {test_id} was not looked at; there are {self._ids()}")
        k = self.table["k"][at[0]]
        return [] if pd.isna(k) else [int(i) for i in self.order[at[0], : int(k)]]

    def sentences(self) -> list[str]:
        """What it means, in plain words and without markup."""
        status, n = self.table["status"], len(self.table)
        flipped = self.table[status == FLIPPED]
        most = f"up to {self.limit} training image{'s' if self.limit > 1 else ''} removed in the order of {self.name}"
        found = [f"{len(flipped)} of {n} predictions turn over with {most}."]
        if len(flipped):
            found.append(f"Half of these need no more than {median(flipped['k'].astype(int)):g}.")
        itself = int((status == ITSELF).sum())
        if itself:
            found.append(f"{itself} turn over by themselves when the model is trained anew on everything.")
        known = flipped.dropna(subset="predicted_k")
        if len(known):
            ratio = median((known["predicted_k"].astype(float) / known["k"].astype(float)).tolist())
            found.append(f"The sum of influences predicts {ratio:.2g} times that number (median of {len(known)}).")
        if len(self.seeds) == 1:
            found.append("One seed was trained: unless training is deterministic, a flip may be chance.")
        if len(flipped):
            found.append("Each number is an upper bound: fewer of these images, or others, may do as well.")
        return found

    def __repr__(self) -> str:
        """Estimator, and how many turned over."""
        counts = {status: int((self.table["status"] == status).sum()) for status in (FLIPPED, WITHIN, ITSELF)}
        told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        return f"Brittleness({self.name}: {len(self.table)} test images, limit {self.limit}: {told})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the meaning, and the table."""
        lines = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences())
        return f"<ul>{lines}</ul>{self.table.to_html(index=False, float_format='{:.2g}'.format)}"

    def _ids(self) -> str:
        return ", ".join(str(i) for i in self.table["test_id"])


def brittleness(
    study: Study,
    scores: Scores | Estimator,
    test: Sequence[int] | Tensor | None = None,
    retrain: Retrain | str = "recipe",
    *,
    limit: int | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    majority: float = 0.5,
    store: Store | None = None,
    runner: Literal["local", "job"] = "local",
) -> Brittleness:
    """The fewest training images, in the order of an estimator, whose removal turns a prediction over.

    Yang et al. 2023, "How many and which training points would need to be removed to flip this prediction?"; the
    brittleness of Ilyas et al. 2022, "Datamodels", section 4.2. A prediction turns over where it becomes any other
    class; for a mistake, the images are removed that hold the mistake (see ``removal_order``).

    The number k is doubled from 1 until the prediction has turned over, then bisected; every k is trained anew without
    the first k images. That finds the fewest if more removals never turn a prediction back. They may: k is an upper
    bound, k - 1 did not do, and what lies below is not all looked at.

    Models of other seeds differ without any removal. So a model is trained on everything with each seed: seeds that do
    not hold the study's prediction then do not count, and where they are half of them or more, the image "flips by
    itself" and is not searched for.

    Args:
        study: whose model predicts; with labels that are classes.
        scores: influence of all training images, by which they are ranked; or an estimator, of which a copy with
            the same settings is fitted. Of an estimator in nats the number is predicted too.
        test: ids of test images; those that the model gets wrong by default.
        retrain: trains one model; see ``retrain_subsets``. Its study has other test images than this one.
        limit: the most images to remove; a tenth of all by default.
        seeds: one model each for a number that is tried.
        majority: share of the seeds, above which the prediction has turned over; 0 to 1.
        store: where trainings are kept; see ``retrain_subsets``.
        runner: where they are run; likewise.

    Returns:
        The numbers found, with what was tried.

    Raises:
        InvalidInput: if an id, the limit, the seeds or the majority make no sense, or scores do not fit the study.
        NotSupported: if there are no classes, no influence, or the predicted label is not that of least loss.
    """
    size = len(study.train)
    study.need_classes("brittleness")
    test_ids = chosen_ids(study.misclassified() if test is None else test, len(study.test), "test")
    limit = max(1, size // 10) if limit is None else limit
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit < size:
        raise InvalidInput(f"limit is {limit!r}; it is the most images to remove, 1 to {size - 1}")
    if not 0 <= majority < 1:
        raise InvalidInput(f"majority is {majority}; it is a share of the seeds, 0 or more and below 1")
    some_seeds(seeds)
    asked = with_every_label(study, test_ids)
    losses = asked.losses("test").detach().cpu().reshape(len(test_ids), -1)
    check_predictions(study, test_ids, losses)
    with parts("order"):
        order = removal_order(study, scores, test_ids, losses)

    def predictions(kept: Tensor, places: list[int], name: str) -> Tensor:
        """Of some of the test images by models on subsets, int64 [seeds, S, M]."""
        k = asked.num_classes
        rows = (torch.tensor(places)[:, None] * k + torch.arange(k)).flatten()
        found = []
        for seed in seeds:
            with parts(f"{name}/seed-{seed}"):
                trained = retrain_subsets(asked, retrain, kept, rows, (seed,), store=store, runner=runner)
            found.append(trained.losses.reshape(len(kept), len(places), k).argmin(-1))
        return torch.stack(found)

    present, everything = losses.argmin(1), torch.ones(1, size, dtype=torch.bool)
    held = predictions(everything, list(range(len(test_ids))), "everything")[:, 0] == present
    searches = [_Search(limit, [bool(own) for own in seed]) for seed in held.T]
    number = 0
    while open_ := [place for place, one in enumerate(searches) if one.next() is not None]:
        steps = [int(searches[place].next() or 0) for place in open_]
        kept = everything.repeat(len(open_), 1)
        for mask, place, k in zip(kept, open_, steps, strict=True):
            mask[order.ids[place, :k]] = False
        says = predictions(kept, open_, f"round-{number}")
        for column, (place, k) in enumerate(zip(open_, steps, strict=True)):
            searches[place].learn(k, says[:, column, column].tolist(), int(present[place]), majority)
        number += 1
    answers = zip(test_ids.tolist(), present.tolist(), order.enough, searches, strict=True)
    table = pd.DataFrame([_row(study, *answer) for answer in answers])
    table = table.astype({"k": "Int64", "predicted_k": "Int64"})
    tried = [(int(j), k, share) for j, one in zip(test_ids, searches, strict=True) for k, share in one.shares.items()]
    frame = pd.DataFrame(tried, columns=["test_id", "k", "share"])
    return Brittleness(order.name, table, frame, limit, tuple(seeds), order.ids[:, :limit].clone())


@dataclass
class _Search:
    """Doubling, then bisection, for one test image.

    Attributes:
        limit: the most to remove.
        held: which seeds hold the prediction with all images.
        low: the most that did not turn it over.
        high: the fewest that did.
        shares: number removed -> share of the seeds that flipped.
        becomes: the label that most of them say at ``high``.
    """

    limit: int
    held: list[bool]
    low: int = 0
    high: int | None = None
    shares: dict[int, float] = field(default_factory=dict)
    becomes: int | None = None

    @property
    def itself(self) -> bool:
        """Whether it turns over without a removal."""
        return 2 * sum(self.held) <= len(self.held)

    def next(self) -> int | None:
        """What to try."""
        if self.itself:
            return None
        if self.high is None:
            return min(max(1, 2 * self.low), self.limit) if self.low < self.limit else None
        return (self.low + self.high) // 2 if self.high - self.low > 1 else None

    def learn(self, k: int, says: list[int], present: int, majority: float) -> None:
        """Take what the seeds say without k images."""
        others = [label for label, own in zip(says, self.held, strict=True) if own and label != present]
        self.shares[k] = len(others) / sum(self.held)
        if self.shares[k] > majority:
            self.high, self.becomes = k, max(sorted(set(others)), key=others.count)
        else:
            self.low = k


def _row(study: Study, test_id: int, present: int, enough: int | None, search: _Search) -> dict[str, Any]:
    k = search.high
    last = max(search.shares, default=None) if k is None else k
    names = study.class_names
    return {
        "test_id": test_id,
        "label": study.test.label_text(test_id),
        "prediction": names[present],
        "status": ITSELF if search.itself else WITHIN if k is None else FLIPPED,
        "k": k,
        "share": None if last is None else search.shares[last],
        "held": sum(search.held) / len(search.held),
        "predicted_k": enough,
        "becomes": None if search.becomes is None else names[search.becomes],
    }
