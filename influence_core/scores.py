"""Scores: what every estimator returns. Sign, scale, coverage and origin travel with the numbers."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor

from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput, NotSupported
from influence_core.identity import check_identified
from influence_core.models import load_tensors, read_facts, save_tensors
from influence_core.pictures import picture_html
from influence_core.serving import Link
from influence_core.trust import MEANING, Coverage, Scale, ScoreKind, caveats

__all__ = ["MEANING", "Coverage", "Scale", "ScoreKind", "Scores"]

CHECKED = 2**20
"""Numbers that are looked at together for NaN and infinity."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Numbers with a label on the jar.

    Attributes:
        values: [N, M] for influence, [N, K] for label influence, [N] otherwise.
        train_ids: the training image of each row, int64 [N].
        kind: see ``MEANING``.
        scale: "nats", "probability" or "rank only". An influence in nats is a first-order change of a loss whose mean
            keeps its divisor N; its size holds for models that are linear in their weights, and is not calibrated on
            others.
        test_ids: the test image of each column, int64 [M]; ``None`` unless ``kind`` is "influence".
        coverage: share of the model that was used.
        meta: estimator, every hyper-parameter, fingerprint of the study, solver residual, seconds, and
            ``peak_memory_mib``, the highest that the whole process reached meanwhile, other threads included. What
            ``caveats`` reads besides: ``converged``, ``linear``, ``retrained``, ``evidence``, ``warnings`` and
            ``unidentified``.
        train: the training set, for names and pictures; not saved.
        test: the test set, likewise.
        study: that they are about, likewise; what ``open_app`` shows.

    Raises:
        InvalidInput: if a shape does not fit or a value is NaN or infinite.
    """

    values: Tensor
    train_ids: Tensor
    kind: ScoreKind
    scale: Scale = "rank only"
    test_ids: Tensor | None = None
    coverage: Coverage = field(default_factory=Coverage)
    meta: Mapping[str, Any] = field(default_factory=dict)
    train: LabelledDataset | None = field(default=None, repr=False)
    test: LabelledDataset | None = field(default=None, repr=False)
    study: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check shapes and numbers."""
        if self.kind not in MEANING:
            raise InvalidInput(f"there is no kind of scores {self.kind!r}; choose one of {', '.join(MEANING)}")
        columns = {"influence": 2, "label_influence": 2}.get(self.kind, 1)
        if self.values.ndim != columns or len(self.values) != len(self.train_ids):
            raise InvalidInput(
                f"{self.kind} scores have shape {tuple(self.values.shape)} for {len(self.train_ids)} training images; "
                f"expected {'[N, columns]' if columns == 2 else '[N]'}"
            )
        if (self.kind == "influence") != (self.test_ids is not None):
            raise InvalidInput(f"test_ids belong to influence scores and to no others; these are {self.kind} scores")
        if self.test_ids is not None and len(self.test_ids) != self.values.shape[1]:
            raise InvalidInput(f"{len(self.test_ids)} test ids for {self.values.shape[1]} columns")
        bad = _not_finite(self.values)
        if bad is not None:
            raise InvalidInput(
                f"the {self.kind} score of training image {int(self.train_ids[bad[0]])} is "
                f"{float(self.values[bad])}: look for extreme inputs or weights, or raise the damping"
            )

    @property
    def meaning(self) -> str:
        """What a large value means."""
        return MEANING[self.kind]

    @property
    def name(self) -> str:
        """Name of the estimator, as in ``ic.estimators.get``."""
        return str(self.meta.get("estimator", "scores"))

    def caveats(self) -> list[str]:
        """How far to trust the numbers: what the app and a notebook show below them.

        Returns:
            Plain sentences: the scale, and for which models sizes hold; what the order was measured to be worth where
            that is little; the share of the model that was used, how well a solver did, and whatever the method warned
            of. ``influence_core.trust.caveats`` says where each comes from.
        """
        return caveats(self.kind, self.scale, self.coverage, self.meta)

    def column(self, test_id: int | None = None) -> Tensor:
        """One value per training image.

        Args:
            test_id: id of a test image, for influence scores only; by default the one that they are of.

        Returns:
            [N].

        Raises:
            InvalidInput: if these scores have no such column.
        """
        if self.test_ids is None:
            if test_id is not None or self.values.ndim != 1:
                raise InvalidInput(f"{self.kind} scores have no column for a test image")
            return self.values
        if test_id is None:
            if len(self.test_ids) != 1:
                raise InvalidInput(f"say which test image: one of {_some(self.test_ids)}")
            return self.values[:, 0]
        found = (self.test_ids == test_id).nonzero().flatten()
        if not found.numel():
            raise InvalidInput(f"no scores for test image {test_id}; there are some for {_some(self.test_ids)}")
        return self.values[:, int(found[0])]

    def top(self, test_id: int | None = None, k: int = 10, lowest: bool = False) -> pd.DataFrame:
        """The training images with the largest (or lowest) scores.

        Args:
            test_id: which test image, where influence scores are of several.
            k: how many.
            lowest: the lowest instead, so the most harmful of influence scores.

        Returns:
            One row per image from the most extreme on: rank, train_id, score, given_label, and true_label when known.
            Equal scores are in the order of their ids.
        """
        column = self.column(test_id)
        order = _extreme(column, max(0, k), lowest)
        ids = self.train_ids[order]
        frame = pd.DataFrame({"rank": range(1, len(ids) + 1), "train_id": ids.numpy(), "score": column[order].numpy()})
        if self.train is not None:
            frame["given_label"] = [self.train.label_text(i) for i in ids.tolist()]
            if self.train.true_labels is not None:
                frame["true_label"] = [self.train.label_text(i, true=True) for i in ids.tolist()]
        return frame

    def group(self, train_ids: Sequence[int] | Tensor) -> Tensor:
        """Influence of a set of training images: the sum of theirs.

        Args:
            train_ids: ids of the set, each once.

        Returns:
            [M], one value per test image. Positive: without the set the loss rises.

        Raises:
            NotSupported: if these are no influence scores.
            InvalidInput: if an id is unknown or named twice.
        """
        if self.kind != "influence":
            raise NotSupported(f"the influence of a set needs influence scores; these are {self.kind} scores")
        wanted = torch.as_tensor(train_ids).flatten()
        if wanted.is_floating_point() or wanted.dtype == torch.bool or len(wanted.unique()) != len(wanted):
            raise InvalidInput(f"train ids are {train_ids!r}; give integers such as [3, 17], each once")
        unknown = wanted[~torch.isin(wanted, self.train_ids)]
        if unknown.numel():
            known = _some(self.train_ids)
            raise InvalidInput(f"no scores for training image {int(unknown[0])}; there are some for {known}")
        return self.values[torch.isin(self.train_ids, wanted)].sum(0)

    def helpful(self, test_id: int | None = None, k: int = 10) -> pd.DataFrame:
        """The training images that pulled most towards the right answer for a test image; see ``top``."""
        return self._signed("helpful").top(test_id, k)

    def harmful(self, test_id: int | None = None, k: int = 10) -> pd.DataFrame:
        """The training images that pushed most towards the wrong answer for a test image; see ``top``."""
        return self._signed("harmful").top(test_id, k, lowest=True)

    def roc(self) -> pd.DataFrame:
        """ROC curve of these mislabel or self-influence scores against the true labels.

        Returns:
            false_positive_rate, true_positive_rate and threshold, one row per threshold.

        Raises:
            NotSupported: if the true labels are unknown, or the kind has no such curve.
        """
        from sklearn.metrics import roc_curve

        if self.kind not in ("mislabel", "self_influence"):
            raise NotSupported(f"a ROC curve needs mislabel or self-influence scores; these are {self.kind} scores")
        wrong = None if self.train is None else self.train.corrupted
        if wrong is None:
            raise NotSupported("a ROC curve needs true labels: LabelledDataset(..., true_labels=...)")
        wrong = wrong[self.train_ids]
        if not bool(wrong.any()) or bool(wrong.all()):
            raise NotSupported(
                f"a ROC curve needs right and wrong labels, {int(wrong.sum())} of {len(wrong)} are wrong"
            )
        false_positive, true_positive, threshold = roc_curve(wrong.numpy(), self.values.numpy())
        columns = {"false_positive_rate": false_positive, "true_positive_rate": true_positive, "threshold": threshold}
        return pd.DataFrame(columns)

    def to_frame(self) -> pd.DataFrame:
        """All numbers, one row per training image: train_id, then ``score`` or one column per test image or label."""
        if self.values.ndim == 1:
            columns: dict[Any, Any] = {"score": self.values.numpy()}
        elif self.test_ids is not None:
            columns = {f"test_{int(j)}": self.values[:, c].numpy() for c, j in enumerate(self.test_ids)}
        else:
            names = self.train.class_name if self.train is not None else str
            columns = {f"label_{names(k)}": self.values[:, k].numpy() for k in range(self.values.shape[1])}
        return pd.DataFrame({"train_id": self.train_ids.numpy()} | columns)

    def to_csv(self, path: str | Path) -> None:
        """Write ``to_frame`` as CSV (UTF-8, without an index).

        Args:
            path: file to write.
        """
        self.to_frame().to_csv(path, index=False, lineterminator="\n")

    def save(self, path: str | Path) -> None:
        """Write numbers and origin as one safetensors file.

        Args:
            path: file to write.

        Raises:
            NotSupported: if they belong to a study with parts that cannot be identified.
            InvalidInput: if the file cannot be written.
        """
        check_identified(self.meta.get("unidentified", ()), f"these scores of {self.name}")
        tensors = {"values": self.values, "train_ids": self.train_ids}
        if self.test_ids is not None:
            tensors["test_ids"] = self.test_ids
        facts = {
            "kind": self.kind,
            "scale": self.scale,
            "coverage": [self.coverage.parameters, self.coverage.gradient_norm],
            "meta": dict(self.meta),
        }
        save_tensors(path, tensors, {"scores": json.dumps(facts)})

    @classmethod
    def load(
        cls, path: str | Path, train: LabelledDataset | None = None, test: LabelledDataset | None = None
    ) -> Scores:
        """Read what ``save`` wrote.

        Args:
            path: the file.
            train: the training set, to show names and pictures.
            test: the test set, likewise.

        Returns:
            The scores.

        Raises:
            InvalidInput: if the file holds no scores, or was changed since; files of before there were checksums are
                taken without.
        """
        tensors, facts = load_tensors(path), read_facts(path, "scores")
        if facts is None:
            raise InvalidInput(f"{path} holds no scores; write them with Scores.save")
        try:
            facts["coverage"] = Coverage(*facts["coverage"])
            parts: dict[str, Any] = {**tensors, **facts}
            return cls(**parts, train=train, test=test)
        except (TypeError, KeyError) as error:
            raise InvalidInput(f"{path} is not what Scores.save of this version writes: {error}") from error

    def with_meta(self, **facts: Any) -> Scores:
        """The same scores with more facts in ``meta``."""
        return replace(self, meta={**self.meta, **facts})

    def open_app(self, test_id: int | None = None) -> Link:
        """Show in the app what these scores are about; see ``Study.open_app``.

        Args:
            test_id: the test image to explain; by default the first that there are scores for.

        Returns:
            The link.

        Raises:
            NotSupported: if the scores were read from a file, which does not hold the study.
        """
        if self.study is None:
            raise NotSupported(
                f"these scores of {self.name} do not know their study: study.open_app('explain', "
                f"estimator={self.name!r}) shows it"
            )
        if self.test_ids is None:
            return cast(Link, self.study.open_app("mislabels", estimator=self.name))
        shown = int(self.test_ids[0]) if test_id is None else test_id
        return cast(Link, self.study.open_app("explain", estimator=self.name, test=shown))

    def __repr__(self) -> str:
        """Estimator, kind, shape and scale."""
        shape = " x ".join(str(n) for n in self.values.shape)
        return f"Scores({self.name}: {self.kind}, {shape}, {self.scale}; {self.meaning})"

    def _repr_html_(self) -> str:
        """What a notebook shows: origin, the extreme images with their labels, and how far to trust the numbers."""
        seconds = self.meta.get("seconds")
        origin = [f"{self.name} · {self.kind.replace('_', ' ')}", self.meaning]
        origin += [f"{seconds:.2g} s"] if isinstance(seconds, float) else []
        parts = [f"<p>{html.escape(' · '.join(origin))}</p>"]
        if self.kind == "influence" and self.test_ids is not None:
            for test_id in self.test_ids[:2].tolist():
                title = f"test image {test_id}"
                if self.test is not None:
                    title += f" ({self.test.label_text(test_id)})"
                parts.append(f"<p><b>{html.escape(title)}</b></p>")
                parts.append(self._row("most harmful", self.harmful(test_id, 6)))
                parts.append(self._row("most helpful", self.helpful(test_id, 6)))
            if len(self.test_ids) > 2:
                parts.append(f"<p>and {len(self.test_ids) - 2} more test images</p>")
        elif self.values.ndim == 1:
            parts.append(self._row("largest", self.top(k=12)))
        else:
            parts.append(self.to_frame().head(8).to_html(index=False, float_format="{:.3g}".format))
        parts.append(f'<p style="opacity:.7">{html.escape(" ".join(self.caveats()))}</p>')
        return f'<div style="font-family:sans-serif;font-size:13px">{"".join(parts)}</div>'

    def _row(self, title: str, frame: pd.DataFrame) -> str:
        cells = [picture_html(self.train, int(r["train_id"]), f"{r['score']:.3g}") for r in frame.to_dict("records")]
        row = f'<div style="display:flex;gap:8px;flex-wrap:wrap">{"".join(cells)}</div>'
        return f'<div style="margin:4px 0"><div style="opacity:.7">{html.escape(title)}</div>{row}</div>'

    def _signed(self, what: str) -> Scores:
        if self.kind != "influence":
            raise NotSupported(f"{what} images belong to influence scores; these are {self.kind} scores")
        return self


def _extreme(column: Tensor, k: int, lowest: bool) -> Tensor:
    """Places of the k largest (or lowest) of [N] values, equal ones in their order, without sorting all of them."""
    places = torch.arange(len(column))
    if 0 < k < len(column):
        last = torch.topk(column, k, largest=not lowest).values[-1]
        places = (column <= last if lowest else column >= last).nonzero().flatten()
    return places[torch.sort(column[places], descending=not lowest, stable=True).indices[:k]]


def _not_finite(values: Tensor) -> tuple[int, ...] | None:
    """The place of the first NaN or infinity, looked for block by block: ``isfinite`` makes copies of what it is given.

    Args:
        values: [N] or [N, M].

    Returns:
        One number for each dimension; ``None`` where all are finite.
    """
    rows = max(1, CHECKED * len(values) // max(1, values.numel()))
    for begin in range(0, len(values), rows):
        finite = torch.isfinite(values[begin : begin + rows])
        if not bool(finite.all()):
            row, *rest = (~finite).nonzero()[0].tolist()
            return begin + row, *rest
    return None


def _some(ids: Tensor, most: int = 8) -> str:
    listed = ", ".join(str(i) for i in ids[:most].tolist())
    return listed + (f" and {len(ids) - most} more" if len(ids) > most else "")
