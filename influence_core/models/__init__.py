"""Architectures for small images, and safe loading of weights."""

from influence_core.models.adapted import adapted, adapted_like, adapting, as_given, logits, pick, unpack
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
from influence_core.models.features import final_linear, layer_inputs, linear_in_weights
from influence_core.models.outputs import dataset_losses, model_outputs
from influence_core.models.plugins import Plugin, PluginFile, load_plugin
from influence_core.models.plugins import run as run_plugin
from influence_core.models.private import private
from influence_core.models.recognition import recognised
from influence_core.models.reopening import in_kind, saved_as
from influence_core.models.sizes import check_size
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
    "adapted",
    "adapted_like",
    "adapting",
    "architecture_of",
    "as_built",
    "as_given",
    "build",
    "check_finite",
    "check_size",
    "dataset_losses",
    "final_linear",
    "in_kind",
    "layer_inputs",
    "linear_in_weights",
    "load_checkpoint",
    "load_plugin",
    "load_tensors",
    "load_weights",
    "logits",
    "mlp",
    "model_outputs",
    "names",
    "pick",
    "private",
    "read_facts",
    "recognised",
    "register",
    "run_plugin",
    "save_tensors",
    "saved_as",
    "small_cnn",
    "structure_of",
    "unpack",
    "write_tensors",
]
