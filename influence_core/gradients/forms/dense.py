"""Gradients kept as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from influence_core.gradients.forms.base import Costs, Form
from influence_core.gradients.layout import Layout


class Dense(Form):
    """Explicit gradients ``[B, *shape]``: biases, norms' scales, and whatever took the fallback."""

    def __init__(self, gradients: Tensor) -> None:
        """Take the gradients ``[B, *shape]``."""
        self.gradients = gradients
        self.batch = gradients.shape[0]
        self.layout = Layout.plain(tuple(gradients.shape[1:]))

    def rows(self) -> Tensor:
        """The gradients, flattened."""
        return self.gradients.reshape(self.batch, -1)

    def costs(self) -> Costs:
        """Nothing to form; kept as it is."""
        size = self.layout.size
        return Costs(explicit=0.0, size=size, pair=None, kept=size)

    def narrow(self, start: int, stop: int) -> Dense:
        """A slice of the gradients."""
        return Dense(self.gradients[start:stop])

    @classmethod
    def stack(cls, forms: Sequence[Self]) -> Self:
        """One after the other."""
        return cls(torch.cat([form.gradients for form in forms]))

    def total(self) -> Tensor:
        """The sum over the batch."""
        return self.gradients.sum(0)
