"""Architectures for small images, and safe loading of weights."""

from influence_core.models.architectures import (
    Architecture,
    architecture_of,
    as_built,
    build,
    mlp,
    names,
    register,
    small_cnn,
    structure_of,
)
from influence_core.models.features import final_linear, layer_inputs
from influence_core.models.outputs import model_outputs
from influence_core.models.plugins import Plugin, PluginFile, load_plugin
from influence_core.models.plugins import run as run_plugin
from influence_core.models.private import private
from influence_core.models.recognition import recognised
from influence_core.models.reopening import in_kind, saved_as
from influence_core.models.weights import (
    check_finite,
    load_checkpoint,
    load_tensors,
    load_weights,
    read_facts,
    save_tensors,
    write_tensors,
)

__all__ = [
    "Architecture",
    "Plugin",
    "PluginFile",
    "architecture_of",
    "as_built",
    "build",
    "check_finite",
    "final_linear",
    "in_kind",
    "layer_inputs",
    "load_checkpoint",
    "load_plugin",
    "load_tensors",
    "load_weights",
    "mlp",
    "model_outputs",
    "names",
    "private",
    "read_facts",
    "recognised",
    "register",
    "run_plugin",
    "save_tensors",
    "saved_as",
    "small_cnn",
    "structure_of",
    "write_tensors",
]
