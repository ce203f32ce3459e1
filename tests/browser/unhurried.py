"""A plugin of the tests' server: estimators that do not say what they cost, and take their time or fail."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

import influence_core as ic

PACE = 1.2
"""Seconds that Leisurely takes for a part of the training images."""


@dataclass
class Unhurried(ic.estimators.TracIn):
    """TracIn after a minute of waiting."""

    name: ClassVar[str] = "unhurried"
    title: ClassVar[str] = "Unhurried"

    def _fit(self, study: ic.Study) -> None:
        for _ in ic.progress.track(range(600), "waiting"):
            time.sleep(0.1)
        super()._fit(study)

    def _fit_work(self, study: ic.Study) -> None:
        return None


@dataclass
class Leisurely(ic.estimators.LastLayer):
    """The last layer, which takes its time for every part of the training images, and says which it is at."""

    name: ClassVar[str] = "leisurely"
    title: ClassVar[str] = "Leisurely"

    def _fit_work(self, study: ic.Study) -> None:
        return None

    def _influence(self, test_ids: Tensor) -> object:
        print(f"at image {int(self._scored_ids[0])}", flush=True)
        for _ in ic.progress.track(range(20), "strolling"):
            time.sleep(PACE / 20)
        return super()._influence(test_ids)


@dataclass
class Stumbling(ic.estimators.LastLayer):
    """The last layer, which fails."""

    name: ClassVar[str] = "stumbling"
    title: ClassVar[str] = "Stumbling"

    def _fit_work(self, study: ic.Study) -> None:
        return None

    def _influence(self, test_ids: Tensor) -> object:
        raise RuntimeError("a stone was in the way")
