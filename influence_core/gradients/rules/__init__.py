"""Layer rules: from a layer's inputs and output gradients to its parameters' per-sample gradients.

One pure function per layer type, in a file of its own, registered by type. Importing this package registers them all.
"""

from influence_core.gradients.rules import (
    attention,
    batch_norm,
    convolution,
    embedding,
    group_norm,
    instance_norm,
    layer_norm,
    linear,
    rms_norm,
)
from influence_core.gradients.rules.functional import functional, output_tensors
from influence_core.gradients.rules.registry import Call, Entry, Rule, entry_for, register

__all__ = [
    "Call",
    "Entry",
    "Rule",
    "attention",
    "batch_norm",
    "convolution",
    "embedding",
    "entry_for",
    "functional",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "linear",
    "output_tensors",
    "register",
    "rms_norm",
]
