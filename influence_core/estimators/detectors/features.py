"""Which features of an image a detector compares: those before the last linear layer, or the logits."""

from __future__ import annotations

from typing import Literal

from influence_core.errors import NotSupported
from influence_core.models import final_linear
from influence_core.study import Study

Layer = Literal["penultimate", "logits"]


def features_before(study: Study, layer: Layer) -> str | None:
    """The layer whose inputs are the features.

    Args:
        study: whose model is looked at.
        layer: "penultimate" or "logits".

    Returns:
        Its path; ``None`` where the logits are taken.

    Raises:
        NotSupported: if the model does not end in a linear layer, and its inputs are wanted.
    """
    path = _last(study, layer)
    if layer == "penultimate" and path is None:
        raise NotSupported(
            f"the model {type(study.model).__name__} does not end in a linear layer of its own whose output is the "
            "logits, so there is no penultimate layer to take; layer='logits' takes any model"
        )
    return path


def lacking_features(study: Study, layer: Layer) -> list[str]:
    """What the model lacks for them, as ``Estimator.missing`` says it."""
    return [] if layer == "logits" or _last(study, layer) is not None else ["a last layer that is linear"]


def features_width(study: Study, layer: Layer) -> int:
    """How many numbers an image's features are."""
    path = _last(study, layer)
    last = study.model.get_submodule(path) if path is not None else None
    return int(getattr(last, "in_features", study.num_classes))


def _last(study: Study, layer: Layer) -> str | None:
    return None if layer == "logits" else final_linear(study.model, study.train.batch([0])[0])
