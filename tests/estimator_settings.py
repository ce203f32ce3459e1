"""Settings under which every estimator of the package is quick on the small studies of the tests."""

from __future__ import annotations

from functools import partial
from typing import Any

import influence_core as ic
from influence_core.estimators import Estimator

QUICK: dict[str, dict[str, Any]] = {
    "gex": {"members": 8, "epochs": 2, "batch_size": 8, "refresh_batches": 3},
    "gexlinear": {"members": 8, "epochs": 2, "batch_size": 8, "refresh_batches": 3},
    "vm": {"steps": 20, "batch_size": 8},
    "fvm": {"steps": 20, "batch_size": 8},
    "labelcontrast": {"steps": 20, "batch_size": 8},
    "tunedloss": {"steps": 20, "batch_size": 8},
    "calibrated": {"detectors": "loss,deepknn"},
    "priormargin": {"steps": 20, "batch_size": 8},
    "randproj": {"dim": 32},
    "tracinrp": {"dim": 32},
    "trak": {"dim": 16},
    "conjugategradient": {"tolerance": 1e-9, "damping": 1.0},
    "samif": {"tolerance": 1e-9, "damping": 1.0, "rho": 0.02},  # the convex study was trained without an ascent
    "samhif": {"tolerance": 1e-9, "damping": 1.0, "rho": 0.005},
    "samgif": {"rho": 0.02},
    "lissa": {"steps": 10, "preconditioner": None},  # whose scale, by power iteration, is the same after a rotation
    "arnoldi": {"rank": 10, "steps": 30},
    "confidentlearning": {"folds": 4},
    "el2n": {"runs": 2},
    "gif": {"max_iterations": 8},
    "fif": {"max_iterations": 8},
    "pif": {"max_iterations": 8},
}


def own_estimators() -> list[type[Estimator]]:
    """The estimators of the package itself, without those that a test derives."""
    return [c for c in ic.estimators.all_estimators() if c.__module__.startswith("influence_core.")]


def quick(cls: type[Estimator]) -> Any:
    """A function that makes the estimator with quick settings."""
    return partial(cls, **QUICK.get(cls.name, {}))
