"""A function that trains for a moment, writes down that it did, and waits where it is told to."""

from __future__ import annotations

import os
import time
from pathlib import Path

from torch import Tensor, nn

import influence_core as ic
from influence_core.estimators.detectors.from_scratch import recipe_of
from influence_core.training import train_fresh

NOTES = "SLOW_TRAINING_NOTES"
"""Environment variable: a file that gets a line for every training that is finished; a file beside it ending in
".gate" says how many of them go through, and where it is missing all do."""


def noted(study: ic.Study, kept: Tensor, seed: int) -> nn.Module:
    """Train for an epoch."""
    notes = Path(os.environ[NOTES])
    gate = notes.with_suffix(".gate")
    while gate.is_file() and len(notes.read_text().split()) >= int(gate.read_text() or 0):
        time.sleep(0.02)
    data = study.train.subset(kept)
    model = train_fresh(study.model, data, recipe_of(study), seed=seed, loss=study.loss, epochs=1)
    with notes.open("a") as file:
        file.write(f"{seed}:{len(study.train)}:{int(study.train.labels.sum())}:{os.getpid()}\n")
    return model
