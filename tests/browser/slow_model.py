"""A plugin of a study: a model that takes its time at a step of training, so that this lasts on every machine."""

from __future__ import annotations

import os
import time

import torch
from torch import Tensor, nn

import influence_core as ic

PAUSE = "TESTS_PAUSE"
"""Environment variable: seconds of each large batch with gradients."""

LARGE = 64
"""Images; batches of other passes are no larger, or without gradients."""


@ic.models.register("unhurried_linear")
class UnhurriedLinear(nn.Module):
    """One layer on 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        if torch.is_grad_enabled() and len(inputs) > LARGE:
            time.sleep(float(os.environ.get(PAUSE, "0")))
        return torch.as_tensor(self.layer(inputs.flatten(1)))
