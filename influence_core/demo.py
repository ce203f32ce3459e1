"""The bundled study: handwritten digits, some of them mislabelled, and a small network trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from influence_core.data import digits as handwritten
from influence_core.errors import InvalidInput
from influence_core.models import build
from influence_core.study import Study
from influence_core.training import fit, seeded

_HERE = Path(__file__).parent
BUNDLED = next((p for p in (_HERE.parent / "assets" / "demo", _HERE / "assets" / "demo") if p.is_dir()), _HERE / "demo")
"""Where the bundled study lies: in a checkout, or in the installed package."""
_BUNDLED_NOISE, _BUNDLED_SEED = 0.1, 0

RECIPE: dict[str, Any] = {
    "optimizer": "sam",
    "epochs": 12,
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
    "batch_size": 64,
    "rho": 0.05,
    "checkpoints": 6,
}
"""How the network is trained. It stops before the wrong labels are memorised, as early stopping would."""


def digits(noise: float = 0.1, seed: int = 0) -> Study:
    """scikit-learn's handwritten digits, a small CNN trained with SAM, and its trajectory.

    The default is read from ``assets/demo`` in a moment; other settings are trained on call (some seconds on two
    cores), with as many threads as torch has just then. Sums come out in another order with another number of them, so
    that for a study that is the same to the last bit everywhere there is the command ``influence demo-study``, which
    trains with one.

    Args:
        noise: share of training labels that are changed to another class, 0 to 1.
        seed: of the split, the noise, the weights and the order of the batches.

    Returns:
        The study: 1000 training, 300 clean validation and 497 test images.
    """
    if noise == _BUNDLED_NOISE and seed == _BUNDLED_SEED and BUNDLED.is_dir():
        return Study.load(BUNDLED)
    return train_digits(noise, seed)


def train_digits(noise: float = 0.1, seed: int = 0) -> Study:
    """Train the digits study from scratch; see ``digits``.

    Args:
        noise: share of training labels that are changed.
        seed: of everything.

    Returns:
        The study.

    Raises:
        InvalidInput: if ``noise`` is not between 0 and 1.
    """
    if not 0 <= noise <= 1:
        raise InvalidInput(f"noise is {noise}; it is the share of labels to change, so between 0 and 1 (0.1 for 10 %)")
    splits = handwritten(noise, seed)
    with seeded(seed, torch.device("cpu")):
        model = build("small_cnn", channels=1, classes=10)
    trajectory = fit(model, splits.train, seed=seed, **RECIPE)
    name = f"Handwritten digits, {noise:.0%} wrong labels"
    return Study(
        model,
        splits.train,
        splits.test,
        splits.validation,
        trajectory,
        weight_decay=RECIPE["weight_decay"],
        name=name if seed == 0 else f"{name}, seed {seed}",
    )
