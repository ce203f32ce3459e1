"""Do estimators name the same training images for a test image?

Methods that rest on different approximations and still agree are less likely to be wrong by chance; it is no proof.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from influence_core.errors import InvalidInput, NotSupported, StaleResult
from influence_core.evaluation.naming import distinct
from influence_core.scores import Scores

Side = Literal["harmful", "helpful"]
SIDES: tuple[Side, Side] = ("harmful", "helpful")

_COLUMNS = ("side", "train_id", "named_by", "names", "given_label", "true_label")
_ROWS = 12  # of the table in a notebook


@dataclass(frozen=True, eq=False)
class Agreement:
    """What several estimators say of one test image, side by side.

    An estimator names an image harmful if it is among its k lowest scores, and helpful if among its k highest,
    as ``Scores.harmful`` and ``Scores.helpful`` do, whatever the sign of the score.

    Attributes:
        names: one per estimator, all different.
        test_id: the test image.
        k: how many training images each estimator names on each side, unless there are fewer.
        table: one row per side and training image that any estimator names there: side, train_id, named_by (by how
            many), names, the rank under each estimator (a column of its name, 1 to N from the most extreme on, also
            beyond k), given_label and, where known, true_label. Harmful first; then those that most name; then by mean
            rank.
        train_ids: of all training images, int64 [N].
        values: their scores, float64 [N, n], a column per estimator.
    """

    names: tuple[str, ...]
    test_id: int
    k: int
    table: pd.DataFrame
    train_ids: Tensor = field(repr=False)
    values: Tensor = field(repr=False)

    @property
    def expected(self) -> float:
        """How many of the top k two random orders share: k * k / N."""
        k = min(self.k, len(self.train_ids))
        return k * k / len(self.train_ids)

    @cached_property
    def correlation(self) -> pd.DataFrame:
        """Spearman's rank correlation over all training images, [n, n]; equal scores share their mean rank.

        NaN where all scores of an estimator are equal.
        """
        return pd.DataFrame(self.values.numpy(), columns=list(self.names)).corr(method="spearman").set_axis(self.names)

    def overlap(self, side: Side = "harmful") -> pd.DataFrame:
        """How many of their top k two estimators share.

        Args:
            side: "harmful" or "helpful".

        Returns:
            [n, n] counts; k (or N, where that is less) on the diagonal.

        Raises:
            InvalidInput: if there is no such side.
        """
        named = (self._side(side)[list(self.names)].to_numpy() <= self.k).astype(int)
        return pd.DataFrame(named.T @ named, index=list(self.names), columns=list(self.names))

    def count(self, train_id: int, side: Side = "harmful") -> int:
        """How many estimators name a training image.

        Args:
            train_id: of the image.
            side: "harmful" or "helpful".

        Returns:
            0 to n.

        Raises:
            InvalidInput: if there are no scores for the image, or no such side.
        """
        rows = self._side(side)
        found = rows.loc[rows["train_id"] == train_id, "named_by"]
        if found.empty and not bool((self.train_ids == train_id).any()):
            raise InvalidInput(
                f"there are no scores for training image {train_id}; there are {len(self.train_ids)} ids"
            )
        return int(found.sum())

    def sentences(self) -> list[str]:
        """What it means, in plain words and without markup."""
        found = [text for side in SIDES for text in (*self._shared(side), self._common(side))]
        return [
            *found,
            "Agreement is no proof: methods of one family rest on the same approximation and can be wrong together. "
            "Retraining without the images shows it: ic.evaluation.leave_one_out.",
        ]

    def _shared(self, side: Side) -> list[str]:
        """The pair that shares most and, of three estimators or more, the one that shares least."""
        shared, k = self.overlap(side).to_numpy(), min(self.k, len(self.train_ids))
        pairs = sorted(combinations(range(len(self.names)), 2), key=lambda pair: -shared[pair])
        chance = f"{self.expected:.2f}" if self.expected >= 0.005 else "less than 0.01"
        images, rest = (
            f"{k} most {side} image{'s' if k > 1 else ''}",
            "" if len(pairs) == 1 else ", the most of any two",
        )
        (a, b), (c, d) = pairs[0], pairs[-1]
        most = f"{self.names[a]} and {self.names[b]} share {shared[a, b]} of their {images}{rest}"
        fewest = f"{self.names[c]} and {self.names[d]} share {shared[c, d]}, the fewest of any two."
        return [f"{most}; chance would give {chance}.", fewest][: len(pairs)]

    def _common(self, side: Side) -> str:
        """The images that most of them name."""
        rows, n = self._side(side), len(self.names)
        top = int(rows["named_by"].max())
        if top == 1:
            return f"No training image is named most {side} by two of them."
        ids = rows.loc[rows["named_by"] == top, "train_id"].tolist()
        who = "Both" if n == 2 else f"All {n}" if top == n else f"None is named by all; {top} of {n}"
        return f"{who} name training image{'s' if len(ids) > 1 else ''} {_listed(ids)} among the most {side}."

    def _side(self, side: Side) -> pd.DataFrame:
        if side not in SIDES:
            raise InvalidInput(f"there is no side {side!r}; choose one of {', '.join(SIDES)}")
        return self.table[self.table["side"] == side]

    def __repr__(self) -> str:
        """Test image, estimators, and how many images all of them name."""
        by_all = self.table.loc[self.table["named_by"] == len(self.names), "side"].tolist()
        shared = " and ".join(f"{by_all.count(side)} of the {self.k} most {side}" for side in SIDES)
        return f"Agreement(test image {self.test_id}: {', '.join(self.names)}; all name {shared})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the meaning, and the images that most estimators name."""
        lines = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences())
        best = self.table.groupby("side", sort=False).head(_ROWS // 2)
        more = f"<p>and {len(self.table) - len(best)} more rows in .table</p>" if len(best) < len(self.table) else ""
        title = f"<p><b>test image {self.test_id}</b>, {len(self.names)} estimators, k = {self.k}</p>"
        return f"{title}<ul>{lines}</ul>{best.to_html(index=False)}{more}"


def agreement(scores: Sequence[Scores], test_id: int, k: int = 5) -> Agreement:
    """Compare what several estimators say of one test image.

    Args:
        scores: influence scores of the same study, two or more, each with a column for ``test_id``. Several of one
            estimator with other hyper-parameters are told apart by those.
        test_id: the test image.
        k: how many training images each of them names as harmful, and how many as helpful.

    Returns:
        Who names which image, how many they share, and what chance would give.

    Raises:
        InvalidInput: if there are fewer than two scores, if they are not of the same training images, if one has no
            column for the test image, or if ``k`` is less than 1.
        NotSupported: if scores are of another kind than influence.
        StaleResult: if they belong to different studies.

    Example:
        >>> import influence_core as ic
        >>> study = ic.demo.digits()
        >>> scores = [ic.estimators.get(name).fit(study).influence(test=[3]) for name in ("tracin", "lastlayer")]
        >>> ic.evaluation.agreement(scores, test_id=3).overlap("harmful").loc["tracin", "tracin"]
        np.int64(5)
    """
    found = list(scores)
    _check(found, k)
    names = distinct([(s.name, dict(s.meta.get("parameters", {}))) for s in found], taken=_COLUMNS)
    values = torch.stack([s.column(test_id).double() for s in found], dim=1)
    parts = [_rows(side, values, found[0].train_ids, names, k) for side in SIDES]
    table = pd.concat(parts, ignore_index=True)
    train = next((s.train for s in found if s.train is not None), None)
    if train is not None:
        ids = table["train_id"].tolist()
        table["given_label"] = [train.label_text(i) for i in ids]
        if train.true_labels is not None:
            table["true_label"] = [train.label_text(i, true=True) for i in ids]
    return Agreement(names, int(test_id), k, table, found[0].train_ids, values)


def _rows(side: Side, values: Tensor, train_ids: Tensor, names: tuple[str, ...], k: int) -> pd.DataFrame:
    """The images that any estimator names on one side; ``values`` are [N, n]."""
    order = torch.sort(values, dim=0, descending=side == "helpful", stable=True).indices  # as Scores.top
    ranks = torch.empty_like(order)
    ranks.scatter_(0, order, torch.arange(1, len(order) + 1)[:, None].expand_as(order))
    rows = order[:k].unique()
    ranks = ranks[rows]
    named = ranks <= k
    frame = pd.DataFrame({"side": side, "train_id": train_ids[rows].numpy(), "named_by": named.sum(1).numpy()})
    frame["names"] = [", ".join(name for name, yes in zip(names, row, strict=True) if yes) for row in named.tolist()]
    for column, name in enumerate(names):
        frame[name] = ranks[:, column].numpy()
    order_by = pd.DataFrame({"named": -frame["named_by"], "rank": ranks.double().mean(1).numpy()})
    return frame.loc[order_by.assign(id=frame["train_id"]).sort_values(["named", "rank", "id"]).index]


def _check(found: list[Scores], k: int) -> None:
    """Refuse what cannot be compared."""
    if len(found) < 2:
        raise InvalidInput(f"{len(found)} scores given; agreement is between two estimators or more")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InvalidInput(f"k is {k!r}; it is how many images each estimator names, so 1 or more")
    for s in found:
        if s.kind != "influence":
            raise NotSupported(
                f"agreement on a test image needs influence scores; those of {s.name} are {s.kind} scores"
            )
        if not torch.equal(s.train_ids, found[0].train_ids):
            raise InvalidInput(
                f"{found[0].name} scored {len(found[0].train_ids)} training images and {s.name} "
                f"{len(s.train_ids)}, not the same or not in the same order: give scores of the same training images"
            )
    studies = {str(s.meta["study"]): s.name for s in found if "study" in s.meta}
    if len(studies) > 1:
        raise StaleResult(
            f"the scores of {' and '.join(studies.values())} belong to different studies (fingerprints "
            f"{', '.join(study[:12] for study in studies)}): fit all estimators on the same study"
        )


def _listed(ids: list[int], most: int = 6) -> str:
    """17, 3 and 5."""
    if len(ids) > most:
        return f"{', '.join(map(str, ids[:most]))} and {len(ids) - most} more"
    return " and ".join(filter(None, [", ".join(map(str, ids[:-1])), str(ids[-1])]))
