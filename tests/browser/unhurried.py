"""A plugin of the tests' server: an estimator that does not say what it costs, and takes its time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import influence_core as ic


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
