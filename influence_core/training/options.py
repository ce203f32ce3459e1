"""Sharpness-aware optimisers by their short names, with one set of options."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from influence_core.errors import InvalidInput
from influence_core.parameters import check_numbers, check_types
from influence_core.training.sharpness import ASAM, FSAM, LPFSGD, SAM, SharpnessAware

Solver = Literal["sam", "asam", "fsam", "lpf"]
"""Short names of the sharpness-aware optimisers."""

RADII: dict[str, float] = {"sam": 0.05, "asam": 0.5, "fsam": 0.2}
"""Radius of each ascent where none is given: of the SAM paper, and of the authors' code for the others."""


@dataclass(frozen=True)
class Sharpness:
    """Which sharpness-aware optimiser, and its options; those of the others have no effect.

    Attributes:
        solver: "sam", "asam", "fsam" or "lpf".
        rho: radius of the ascent; ``None`` for the solver's own default of ``RADII``.
        eta: of ASAM, beside the weights' sizes.
        sigma: of F-SAM, share of the mean gradient that the ascent leaves out.
        decay: of F-SAM's moving mean.
        gamma: of LPF-SGD, noise relative to the filters' norms.
        parts: of LPF-SGD, parts of a batch with noise of their own.

    Raises:
        InvalidInput: if the solver is unknown or an option is out of range.
    """

    solver: str = "sam"
    rho: float | None = None
    eta: float = 0.01
    sigma: float = 1.0
    decay: float = 0.9
    gamma: float = 0.001
    parts: int = 1

    def __post_init__(self) -> None:
        """Check names, types and ranges."""
        check_types(self)
        check_numbers(self)
        if self.solver not in ("sam", "asam", "fsam", "lpf"):
            raise InvalidInput(f"there is no sharpness-aware solver {self.solver!r}; choose sam, asam, fsam or lpf")
        if self.rho is not None and not 0 <= self.rho < math.inf:
            raise InvalidInput(f"rho is {self.rho}; it is a radius, so 0 or more")
        sizes = all(0 <= size < math.inf for size in (self.eta, self.gamma, self.sigma))
        if not (sizes and 0 <= self.decay < 1 and self.parts >= 1):
            raise InvalidInput(
                f"eta={self.eta}, gamma={self.gamma}, sigma={self.sigma}, decay={self.decay}, parts={self.parts}: eta, "
                "gamma and sigma from 0, a decay from 0 to below 1, and at least one part are needed"
            )

    @property
    def radius(self) -> float:
        """Radius of the ascent; 0 for LPF-SGD, which has none."""
        return RADII.get(self.solver, 0.0) if self.rho is None or self.solver == "lpf" else self.rho

    def options(self) -> dict[str, Any]:
        """Those options, beside the radius, that have an effect on this solver."""
        names = {"sam": (), "asam": ("eta",), "fsam": ("sigma", "decay"), "lpf": ("gamma", "parts")}[self.solver]
        return {name: getattr(self, name) for name in names}

    def around(self, base: Optimizer, model: nn.Module, seed: int = 0) -> Optimizer | SharpnessAware:
        """The optimiser itself, new and without a past.

        Args:
            base: over the parameters of ``model``.
            model: whose names tell weights from biases.
            seed: of LPF-SGD's noise.

        Returns:
            The optimiser; ``base`` alone where neither a radius nor noise is left.
        """
        if self.solver == "lpf":
            return LPFSGD(base, self.gamma, self.parts, seed) if self.gamma > 0 else base
        if not self.radius > 0:
            return base
        if self.solver == "asam":
            return ASAM(base, model.named_parameters(), self.radius, self.eta)
        if self.solver == "fsam":
            return FSAM(base, self.radius, self.sigma, self.decay)
        return SAM(base, self.radius)


def check_sgd(learning_rate: float, momentum: float, weight_decay: float) -> None:
    """Refuse settings that SGD does not take.

    Args:
        learning_rate: at the start.
        momentum: of the steps.
        weight_decay: lambda of the penalty lambda/2 ||w||^2.

    Raises:
        InvalidInput: if one is out of range.
    """
    if not (0 < learning_rate < math.inf and 0 <= momentum < 1 and 0 <= weight_decay < math.inf):
        raise InvalidInput(
            f"learning_rate={learning_rate}, momentum={momentum}, weight_decay={weight_decay}: a positive learning "
            "rate, a momentum from 0 to below 1, and a weight decay from 0 are needed"
        )
