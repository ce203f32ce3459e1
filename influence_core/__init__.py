"""Training-data attribution for image classifiers: which training images did it, and what if they are fixed?"""

from influence_core import (
    applications,
    curvature,
    data,
    demo,
    estimators,
    evaluation,
    figures,
    gradients,
    losses,
    models,
    pictures,
    progress,
    testing,
    training,
)
from influence_core.errors import InfluenceError, InvalidInput, NotFitted, NotSupported, StaleResult
from influence_core.scores import Coverage, Scores
from influence_core.study import Study

__version__ = "0.1.0"

__all__ = [
    "Coverage",
    "InfluenceError",
    "InvalidInput",
    "NotFitted",
    "NotSupported",
    "Scores",
    "StaleResult",
    "Study",
    "applications",
    "curvature",
    "data",
    "demo",
    "estimators",
    "evaluation",
    "figures",
    "gradients",
    "losses",
    "models",
    "pictures",
    "progress",
    "testing",
    "training",
]
