"""Training-data attribution for image classifiers: which training images did it, and what if they are fixed?"""

import importlib
import threading
from typing import TYPE_CHECKING, Any

from influence_core import _torchvision  # noqa: F401 - from now on ``import torchvision`` goes through
from influence_core.errors import (
    DamageWarning,
    InfluenceError,
    InvalidInput,
    NotFitted,
    NotSupported,
    ReopenWarning,
    StaleResult,
)
from influence_core.threads import uninterrupted

if TYPE_CHECKING:
    from influence_core import (
        applications,
        curvature,
        data,
        demo,
        estimators,
        evaluation,
        figures,
        gradients,
        jobs,
        losses,
        models,
        pictures,
        progress,
        store,
        testing,
        training,
    )
    from influence_core.diagnosis import doctor
    from influence_core.scores import Coverage, Scores
    from influence_core.store.run import run
    from influence_core.study import Study

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

_NAMED = {
    "Coverage": "scores",
    "Scores": "scores",
    "Study": "study",
    "doctor": "diagnosis",
    "run": "store",
}
"""What stands on the face of the package, and the module that it is from."""

_turn = threading.RLock()
"""Two threads that begin with different modules would each hold one that the other waits for, and Python refuses."""


def __getattr__(name: str) -> Any:
    """All of the package is imported once it is used: who scores does not wait for Plotly, SQLite and the doctor."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _turn, uninterrupted():
        module = importlib.import_module(f"{__name__}.{_NAMED.get(name, name)}")
        return globals().setdefault(name, getattr(module, name) if name in _NAMED else module)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
