"""What a prediction says, and the training that shows whether it was right."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from influence_core.applications.receipt import DONE, Receipt
from influence_core.applications.trainings import Wanted, asked, trained
from influence_core.errors import InvalidInput
from influence_core.estimators.changes import DataChange
from influence_core.estimators.registry import title_of
from influence_core.losses import cross_entropy
from influence_core.store import Store, Trainings
from influence_core.store.retrainings import RECIPE, Retrain, name_of
from influence_core.study import Study

EMPTIED = 0.8
"""Share of the images of a class from which a change takes the class away."""
PURPOSE = "Verify"
"""What the trainings of ``verify`` are for, as a list of jobs has it."""


@dataclass(frozen=True, eq=False)
class WhatIf:
    """What an estimator says a change of the training set would do.

    Attributes:
        study: as it is.
        receipt: the prediction, not verified.
        change: of the training set.
        edited: the study with the edited model; ``None`` where the estimator gives no ``parameter_change``.
        mends: mistakes on the test set that would be none, ids int64. From the edited model where there is one; else
            those whose predicted loss says so for certain (cross-entropy below log 2). ``None`` where nothing says it.
        breaks: right predictions that would be mistakes, likewise (cross-entropy above log K).
        caution: a sentence where the prediction is unlike those that receipts in its store have shown to be right;
            ``None`` where it is like them, or there is no store.
        step: the share of the estimator's edit that is made, and that sums of scores are multiplied by; see
            ``trusted_step``. ``None`` where the estimator gives no edit to measure it by; 0 where the loss does not
            fall along the edit at all: the prediction is then one of order alone, and there is no edited study.
        caveats: what is to be known of the estimator's scores, sentences.
    """

    study: Study = field(repr=False)
    receipt: Receipt = field(repr=False)
    change: DataChange = field(repr=False)
    edited: Study | None = field(repr=False)
    mends: Tensor | None
    breaks: Tensor | None
    caution: str | None = None
    step: float | None = None
    caveats: tuple[str, ...] = ()

    @property
    def predicted(self) -> Tensor:
        """Change of the loss of every test image, float64 [M]: above 0 where it rises."""
        return torch.tensor(self.receipt.predicted, dtype=torch.float64)

    @property
    def accuracy(self) -> float | None:
        """Test accuracy of the edited model, 0 to 1; ``None`` without one, or without classes."""
        return None if self.edited is None or self.study.classes is None else self.edited.accuracy()

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each test image, the largest fall of the loss first.

        Columns: test_id, loss and predicted_change; where labels are classes right, and where something says so mends
        and breaks.
        """
        columns: dict[str, Any] = {
            "test_id": range(len(self.study.test)),
            "loss": self.study.losses().double().tolist(),
        }
        columns["predicted_change"] = self.receipt.predicted
        if self.study.classes is not None:
            columns["right"] = (self.study.predictions() == self.study.test.labels).tolist()
        for name, ids in (("mends", self.mends), ("breaks", self.breaks)):
            if ids is not None:
                mask = torch.zeros(len(self.study.test), dtype=torch.bool)
                mask[ids] = True
                columns[name] = mask.tolist()
        return pd.DataFrame(columns).sort_values("predicted_change", kind="stable", ignore_index=True)

    def sentences(self) -> list[str]:
        """What is predicted, in plain sentences."""
        said = f"{DONE[self.receipt.action]} {len(self.receipt.ids):,} training images "
        falls = int((self.predicted < 0).sum())
        if self.receipt.scale == "nats":
            said += f"changes the mean test loss by {float(self.predicted.mean()):+.3g} nats and "
        title = title_of(self.receipt.estimator)
        said += f"lowers the loss of {falls:,} of {len(self.predicted):,} test images, {title} says."
        found = [said]
        if self.mends is not None and self.breaks is not None:
            mistakes = len(self.study.misclassified())
            found.append(
                f"{len(self.mends):,} of {mistakes:,} mistakes would be mended, {len(self.breaks):,} made anew."
            )
        if self.accuracy is not None:
            found.append(f"The edited model has a test accuracy of {100 * self.accuracy:.1f} %.")
        return [*found, *([] if self.reach is None else [self.reach]), *self.warnings()]

    @property
    def reach(self) -> str | None:
        """How far along the estimator's edit the prediction goes, a sentence; ``None`` where that is all the way."""
        if not self.step or self.step == 1:
            return None
        title = title_of(self.receipt.estimator)
        return (
            f"The training loss is what {title} takes it for along 1/{round(1 / self.step):,} of its edit alone: the "
            "prediction and the edited model go so far."
        )

    def warnings(self) -> list[str]:
        """What to know before acting on it, in plain sentences; none where nothing speaks against it."""
        found, title = [], title_of(self.receipt.estimator)
        if self.step == 0:
            found.append(
                f"The training loss does not fall along the edit of {title}, so that only the order of its numbers is "
                "shown, and no edited model."
            )
        gone = self._emptied()
        if gone:
            found.append(
                f"Hardly a training image called {', '.join(gone)} would be left: what a model does that never saw one "
                "cannot be foretold from this one."
            )
        lost, left = float(self.predicted.mean()), float(self.study.losses().double().mean())
        if self.receipt.scale == "nats" and self.study.loss is cross_entropy and -lost > left:
            found.append(
                f"It predicts a fall of the mean test loss by {-lost:.3g} nats, and {left:.3g} is all there is: its "
                "size is wrong."
            )
        return found if self.caution is None else [*found, self.caution]

    def _emptied(self) -> list[str]:
        """Names of the classes that the change takes nearly all images from."""
        if self.study.classes is None:
            return []
        labels, change = self.study.train.labels, self.change
        lost = change.ids[change.removed | change.relabelled]
        before = labels.bincount(minlength=self.study.classes).double()
        share = labels[lost].bincount(minlength=self.study.classes).double() / before.clamp(min=1)
        return [self.study.class_names[int(k)] for k in (share > EMPTIED).nonzero().flatten()]

    def verify(
        self, seeds: Sequence[int] = (0, 1, 2), store: Store | None = None, retrain: str | Retrain = RECIPE
    ) -> Receipt:
        """Train with and without the change, and write down what happened.

        An image that is removed is left out, so that the mean loss is one over fewer images (see
        ``estimators.changes``); images get other weights in every batch that they are in.

        Args:
            seeds: two trainings each, from the same new weights.
            store: where each training is kept, and the receipt.
            retrain: trains one model: "recipe", or ``retrain(study, kept, seed)``.

        Returns:
            The receipt.

        Raises:
            InvalidInput: if there is no seed, or one is given twice.
        """
        made = trained(self.study, self._wanted(seeds), retrain, store, PURPOSE)
        changes, hits = [], []
        for before, after in zip(made[::2], made[1::2], strict=True):
            changes.append(after.losses - before.losses)
            if before.right is not None and after.right is not None:
                hits.append((float(before.right.double().mean()), float(after.right.double().mean())))
        found, root = torch.stack(changes), math.sqrt(len(seeds))
        several = len(seeds) > 1
        before_after = [sum(column) / len(hits) for column in zip(*hits, strict=True)]
        receipt = replace(
            self.receipt,
            actual=tuple(found.mean(0).tolist()),
            noise=tuple((found.std(0) / root).tolist()) if several else None,
            shared=float(found.mean(1).std() / root) if several else None,
            seeds=tuple(int(seed) for seed in seeds),
            retrain=name_of(retrain) if store is not None or isinstance(retrain, str) else repr(retrain),
            accuracy=(before_after[0], before_after[1]) if hits else None,
        )
        if store is not None:
            receipt.save(store)
        return receipt

    def trainings(self, seeds: Sequence[int] = (0, 1, 2), retrain: str | Retrain = RECIPE) -> Trainings:
        """The trainings that ``verify`` needs, for a job: with a store that has them it trains nothing.

        Args:
            seeds: two trainings each, from the same new weights.
            retrain: "recipe", or a function that has a name.

        Returns:
            The task, for ``ic.jobs.submit_task`` or ``Store.compute``.

        Raises:
            InvalidInput: if there is no seed.
        """
        return asked(self.study, self._wanted(seeds), retrain, PURPOSE)

    def _wanted(self, seeds: Sequence[int]) -> list[Wanted]:
        """Trainings without and with the change, seed after seed."""
        if not len(seeds):
            raise InvalidInput("seeds is empty: two models are trained for each, so give at least one, such as (0,)")
        if len(set(seeds)) < len(seeds):
            raise InvalidInput(f"seeds {tuple(seeds)} name one twice, which would be the same training: give others")
        data, weights = self.study.train, None
        if self.receipt.action == "remove":
            data = data.without(self.change.ids)
        elif self.receipt.action == "relabel":
            labels = data.labels.clone()
            labels[self.change.ids] = self.change.labels
            data = data.with_labels(labels)
        else:
            weights = torch.ones(len(data), dtype=torch.float64)
            weights[self.change.ids] = self.change.weights
        before = [Wanted("before", int(seed), self.study.train) for seed in seeds]
        after = [Wanted("after", int(seed), data, weights) for seed in seeds]
        return [one for pair in zip(before, after, strict=True) for one in pair]

    def __repr__(self) -> str:
        """What is predicted."""
        return f"WhatIf({' '.join(self.sentences())})"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences())
