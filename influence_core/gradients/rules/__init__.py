"""Layer rules: from a layer's inputs and output gradients to its parameters' per-sample gradients.

One pure function per layer type, in a file of its own, registered by type. Importing this package imports every file in
it, and so registers them all: a new rule is a new file.
"""

import importlib
import pkgutil

from influence_core.gradients.rules.functional import functional, output_tensors
from influence_core.gradients.rules.registry import Call, Entry, Rule, entry_for, register

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["Call", "Entry", "Rule", "entry_for", "functional", "output_tensors", "register"]
