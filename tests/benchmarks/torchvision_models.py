"""Which classifiers of torchvision open by themselves: each is saved, loaded without help, and asked again.

    python -m tests.benchmarks.torchvision_models             # all of them, with 10 classes and with default arguments
    python -m tests.benchmarks.torchvision_models resnet18 vit_b_16

Random weights. A row says whether the loaded model's outputs and the fingerprint are the same to the last bit, and
seconds for making the study, saving and loading; or what was said instead.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
import warnings
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

import influence_core as ic
from influence_core._torchvision import torchvision

SIDES = (64, 96, 224)
"""Pixels of the images: the first that the architecture takes."""


def study_of(model: nn.Module) -> ic.Study:
    """Two images of noise for each architecture.

    Args:
        model: in eval mode.

    Returns:
        The study.

    Raises:
        InvalidInput: if it takes images of none of the sizes, or is refused.
    """
    refusals = []
    for side in SIDES:
        images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
        data = TensorDataset(images, torch.tensor([0, 1]))
        try:
            return ic.Study(model, data, data)
        except ic.InvalidInput as refusal:
            if "does not take" not in str(refusal):
                raise
            refusals.append(refusal)
    raise refusals[-1]


def row(name: str, arguments: dict[str, Any]) -> list[str]:
    """Save and load one architecture."""
    models = torchvision().models
    shown = ", ".join(f"{key}={value}" for key, value in arguments.items())
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            model = models.get_model(name, weights=None, **arguments).eval()
            warnings.simplefilter("error", ic.ReopenWarning)
            times = [time.perf_counter()]
            study = study_of(model)
            del model
            outputs, fingerprint = study.outputs(), study.fingerprint
            size = sum(p.numel() for p in study.model.parameters())
            times.append(time.perf_counter())
            study.save(folder)
            times.append(time.perf_counter())
            del study
            loaded = ic.Study.load(folder)
            times.append(time.perf_counter())
            same = torch.equal(loaded.outputs(), outputs) and loaded.fingerprint == fingerprint
            seconds = [f"{b - a:.1f}" for a, b in itertools.pairwise(times)]
            return [name, shown, f"{size / 1e6:.1f}", "yes" if same else "NO: other outputs", *seconds]
    except Exception as error:  # whatever stops one architecture is its row
        said = str(error) if isinstance(error, (ic.InfluenceError, ic.ReopenWarning)) else repr(error)
        return [name, shown, "", f"no: {' '.join(said.split())}", "", "", ""]


def main(wanted: list[str]) -> None:
    """Print the table, a row as soon as it is known."""
    torch.set_num_threads(1)
    models = torchvision().models
    print("| architecture | arguments | million weights | opens, same bits | study s | save s | load s |")
    print("|---|---|---|---|---|---|---|")
    found = []
    for name in wanted or models.list_models(module=models):
        for arguments in ({"num_classes": 10}, {}):
            found.append(row(name, arguments))
            print(f"| {' | '.join(found[-1])} |", flush=True)
    print(f"\n{sum(line[3] == 'yes' for line in found)} of {len(found)} open by themselves, to the last bit.")


if __name__ == "__main__":
    main(sys.argv[1:])
