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
from influence_core.models.features import final_linear, layer_inputs
from influence_core.models.outputs import dataset_losses, model_outputs
from influence_core.models.private import private
from influence_core.models.weights import (
    check_finite,
    load_tensors,
    load_weights,
    read_facts,
    save_tensors,
    write_tensors,
)

__all__ = [
    "Architecture",
    "adapted",
    "adapted_like",
    "adapting",
    "architecture_of",
    "as_built",
    "as_given",
    "build",
    "check_finite",
    "dataset_losses",
    "final_linear",
    "layer_inputs",
    "load_tensors",
    "load_weights",
    "logits",
    "mlp",
    "model_outputs",
    "names",
    "pick",
    "private",
    "read_facts",
    "register",
    "save_tensors",
    "small_cnn",
    "structure_of",
    "unpack",
    "write_tensors",
]
