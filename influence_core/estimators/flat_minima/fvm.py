"""Influence at a flat minimum of the validation loss: FVM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from influence_core.estimators.flat_minima.tuning import FlatValidationTuned
from influence_core.estimators.flat_minima.vm import VM


@dataclass
class FVM(FlatValidationTuned, VM):
    r"""Influence at a *flat* minimum of the validation loss ("flat validation minima", section 3.4).

    As ``VM``, but the model is tuned on the validation set with sharpness-aware minimisation, which bounds the error of
    the estimate by the sharpness of the validation loss (eq. 11 and 12). Mislabel score q, influence and label
    influence are those of ``VM``, and so are the arguments that are not named here.

    Args:
        sharpness: "sam", or "asam", "fsam" (the best of the paper's Table 12) or "lpf" (its choice for text and
            images); or ``ic.training.Sharpness`` with the optimiser's options.
        rho: radius of the ascent (gamma in the paper), which took 0.05 for SAM on CIFAR-10N and 0.1 on CIFAR-100N and
            does not say what it took for the others. ``None`` for the optimiser's own default: SAM 0.05, ASAM 0.5,
            F-SAM 0.2.
    """

    name: ClassVar[str] = "fvm"
    title: ClassVar[str] = "FVM"
    paper: ClassVar[str] = "flat validation minima, 2025"
    good_for: ClassVar[str] = "Finds and suggests labels from clean images; behind label contrast on real noise"
    cost: ClassVar[str] = "2 x steps x batch backward + (V + N) backward; label influence N forward and K N backward"
