"""What estimators share that keep random projections of gradients: they index once and answer instantly.

``fit`` keeps k features of each training image, and a test image costs its own gradient at each checkpoint and one
matrix product.
"""

from __future__ import annotations

from typing import Literal

from influence_core.errors import InvalidInput
from influence_core.estimators.work import NUMBER, Work, parameters_of, swept
from influence_core.gradients import DenseProjection, FactoredProjection, Projection, SketchProjection
from influence_core.study import Study

ProjectionName = Literal["sketch", "dense", "factored"]

PROJECTIONS: dict[str, type[Projection]] = {
    "sketch": SketchProjection,
    "dense": DenseProjection,
    "factored": FactoredProjection,
}

ROTATED = {"rotated_inputs": "a random projection belongs to its coordinates: rotated inputs are another draw of it"}
"""Why these are exempt from a check of ``ic.testing``."""

TRAINED_LABELS = {"label_influence": "it explains the labels that were trained on"}


SKETCH_FACTOR = 60.0
"""Multiply-adds of a matrix product that scattering one number of a gradient takes as long as."""


def check_dim(dim: int) -> None:
    """Refuse a projection to less than two numbers.

    Args:
        dim: k.

    Raises:
        InvalidInput: if it is below 2.
    """
    if dim < 2:
        raise InvalidInput(f"dim is {dim}; a projection needs at least two features")


def projected_work(study: Study, samples: int, projection: ProjectionName, dim: int) -> Work:
    """A sweep that projects gradients; a dense projection takes k multiply-adds for each of their numbers."""
    work = swept(samples, dim if projection == "dense" else 0, parameters_of(study))
    sketched = SKETCH_FACTOR * samples * parameters_of(study) if projection == "sketch" else 0.0
    return work + Work(algebra=sketched, held=NUMBER * samples * dim)
