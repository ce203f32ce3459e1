"""A plugin of the tests' server: estimators that do not say what they cost, and take their time or fail."""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

import influence_core as ic

GATE = "TESTS_GATE"
"""Environment variable: a file that Leisurely waits for, once it has done some training images."""

SOME = 256
"""Training images before the gate: two shards."""


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
    """The last layer, which says at which training images it is, and waits before most of them."""

    name: ClassVar[str] = "leisurely"
    title: ClassVar[str] = "Leisurely"

    def _fit_work(self, study: ic.Study) -> None:
        return None

    def _influence(self, test_ids: Tensor) -> object:
        first, gate = int(self._scored_ids[0]), Path(os.environ[GATE])
        print(f"at image {first}", flush=True)
        for _ in ic.progress.track(
            itertools.takewhile(lambda _: first >= SOME and not gate.exists(), itertools.count()), "strolling"
        ):
            time.sleep(0.05)
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
