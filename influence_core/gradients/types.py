"""Names that the whole gradient engine shares: what a loss is, and the errors it raises."""

from __future__ import annotations

from influence_core.errors import InvalidInput
from influence_core.losses import Loss

__all__ = ["GradientError", "Loss", "MixedSamplesError", "SelectionError"]


class GradientError(InvalidInput, RuntimeError):
    """Per-sample gradients would not be right; the message says why and what to do."""


class MixedSamplesError(GradientError):
    """One sample's loss depends on the other samples of its batch, so a per-sample gradient does not exist."""


class SelectionError(InvalidInput):
    """A parameter selection names something that the model does not have."""
