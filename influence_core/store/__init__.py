"""Results that last: named by all they depend on, cut into shards, each a file; whoever asks again finds them."""

from influence_core.store.catalogue import Damage, Entry
from influence_core.store.request import Request
from influence_core.store.retrainings import Losses, Retrainings
from influence_core.store.run import beside, run
from influence_core.store.slim import slimmed
from influence_core.store.specs import task_from_spec
from influence_core.store.store import Progress, Store
from influence_core.store.task import Task
from influence_core.store.trained import Trained
from influence_core.store.training import Training
from influence_core.store.trainings import Trainings

__all__ = [
    "Damage",
    "Entry",
    "Losses",
    "Progress",
    "Request",
    "Retrainings",
    "Store",
    "Task",
    "Trained",
    "Training",
    "Trainings",
    "beside",
    "run",
    "slimmed",
    "task_from_spec",
]
