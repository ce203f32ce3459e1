"""An estimator that takes its time. It is imported by the tests of jobs alone: importing it makes it known to all."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from influence_core.errors import NotSupported
from influence_core.estimators import Estimator
from influence_core.progress import track
from influence_core.study import Study

COMPUTED = "DAWDLE_COMPUTED"
"""Environment variable: a file that gets a line for every part that was computed, and by whom."""


@dataclass
class Dawdle(Estimator):
    """Mislabel scores that are the ids, twisted a little."""

    name = "dawdle"
    title = "Dawdle"
    paper = "a test"
    by_rows: ClassVar[frozenset[str]] = frozenset({"mislabel_scores"})
    scales: ClassVar = {"mislabel": "nats"}
    learned = ("slope_",)
    pause: float = 0.0
    steps: int = 5
    fails: str = ""

    def _fit(self, study: Study) -> None:
        self.slope_ = 3

    def _mislabel_scores(self) -> Tensor:
        if self.fails == "refused":
            raise NotSupported("this one gives nothing: take another one")
        if self.fails:
            raise ZeroDivisionError(self.fails)
        ids = self._scored_ids
        for _ in track(range(self.steps), "dawdling"):
            time.sleep(self.pause / self.steps)
        with open(os.environ[COMPUTED], "a") as file:
            file.write(f"{int(ids[0])} {os.getpid()}\n")
        return (ids * self.slope_ % 101).double()
