"""Results that last: named by all they depend on, cut into shards, each a file; whoever asks again finds them."""

from influence_core.store.catalogue import Damage, Entry
from influence_core.store.request import Request
from influence_core.store.run import run
from influence_core.store.store import Progress, Store

__all__ = ["Damage", "Entry", "Progress", "Request", "Store", "run"]
