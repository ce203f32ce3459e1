"""Training-data attribution for image classifiers: which training images did it, and what if they are fixed?"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from influence_core import (
    applications,
    curvature,
    data,
    demo,
    estimators,
    evaluation,
    gradients,
    losses,
    models,
    pictures,
    progress,
    store,
    testing,
    training,
)
from influence_core.doctor import doctor
from influence_core.errors import (
    DamageWarning,
    InfluenceError,
    InvalidInput,
    NotFitted,
    NotSupported,
    ReopenWarning,
    StaleResult,
)
from influence_core.scores import Coverage, Scores
from influence_core.store import run
from influence_core.study import Study
from influence_core.threads import uninterrupted

if TYPE_CHECKING:
    from influence_core import figures, jobs

__version__ = "0.1.0"

__all__ = [
    "Coverage",
    "DamageWarning",
    "InfluenceError",
    "InvalidInput",
    "NotFitted",
    "NotSupported",
    "ReopenWarning",
    "Scores",
    "StaleResult",
    "Study",
    "applications",
    "curvature",
    "data",
    "demo",
    "doctor",
    "estimators",
    "evaluation",
    "figures",
    "gradients",
    "jobs",
    "losses",
    "models",
    "pictures",
    "progress",
    "run",
    "store",
    "testing",
    "training",
]

_LATE = frozenset({"figures", "jobs"})
"""What is imported once it is used: Plotly and SQLite take a while, and much of the work needs neither."""


def __getattr__(name: str) -> ModuleType:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with uninterrupted():
        return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
