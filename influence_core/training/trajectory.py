"""What training left behind: checkpoints with the learning rate and radius that were in force."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from influence_core.errors import InvalidInput
from influence_core.identity import add_tensor
from influence_core.models.weights import check_finite

_COUNT = (0, 2**62)
_SEED = (-(2**63), 2**64)
_RATE = (0.0, 1e9)
_SUM = (0.0, 1e15)
"""From where to where a number makes sense; what lies beyond comes from a damaged file."""


@dataclass(frozen=True)
class Checkpoint:
    """The model after ``step`` optimiser steps.

    Attributes:
        step: optimiser steps taken so far.
        epoch: passes over the training set so far.
        learning_rate: used in the last step before the checkpoint.
        learning_rate_sum: sum over the steps since the checkpoint before (or the start).
        rho: radius of the sharpness-aware ascent; 0 for a plain optimiser.
        state: name -> tensor, parameters and buffers, on the CPU.

    Raises:
        InvalidInput: if a number is none, not finite or out of range, or the state holds something else than tensors.
    """

    step: int
    epoch: float
    learning_rate: float
    learning_rate_sum: float
    rho: float
    state: dict[str, Tensor] = field(repr=False)

    def __post_init__(self) -> None:
        """Check numbers; they become Python's own."""
        what = f"of the checkpoint at step {self.step!r}"
        _settle(self, what, {"step": _COUNT}, {"epoch": _RATE, "learning_rate": _RATE, "rho": _RATE})
        _settle(self, what, {}, {"learning_rate_sum": _SUM})
        if not isinstance(self.state, Mapping) or not all(isinstance(t, Tensor) for t in self.state.values()):
            raise InvalidInput(f"the state {what} has to be a dict of tensors by name, as model.state_dict() gives")

    def facts(self) -> dict[str, Any]:
        """Everything but the weights."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "learning_rate": self.learning_rate,
            "learning_rate_sum": self.learning_rate_sum,
            "rho": self.rho,
        }


@dataclass(frozen=True)
class Recipe:
    """How the model was trained; influence along the trajectory depends on it.

    Attributes:
        optimizer: as in ``influence_core.training.fit``.
        learning_rate: at the start.
        momentum: of SGD.
        weight_decay: lambda of the penalty lambda/2 ||w||^2.
        rho: radius of the sharpness-aware ascent; 0 where there is none.
        batch_size: samples per step.
        epochs: passes over the training set.
        seed: of the order of the batches.
        options: further options of the optimiser that had an effect, such as gamma of LPF-SGD.

    Raises:
        InvalidInput: if a number is none, not finite or out of range.
    """

    optimizer: str = "sgd"
    learning_rate: float = 0.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    rho: float = 0.0
    batch_size: int = 0
    epochs: int = 0
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check numbers; they become Python's own."""
        rates = dict.fromkeys(("learning_rate", "momentum", "weight_decay", "rho"), _RATE)
        _settle(self, "of the recipe", {"batch_size": _COUNT, "epochs": _COUNT, "seed": _SEED}, rates)
        if not isinstance(self.optimizer, str):
            raise InvalidInput(f"the optimizer of the recipe is {self.optimizer!r}, expected a name such as 'sgd'")
        if not isinstance(self.options, dict) or not all(isinstance(name, str) for name in self.options):
            raise InvalidInput(f"the options of the recipe are {self.options!r}, expected a dict by name")
        for name, value in self.options.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InvalidInput(f"the option {name} of the recipe is {value}, expected a finite number")

    def facts(self) -> dict[str, Any]:
        """The recipe as a plain dict; without options where there are none, as before there were any."""
        facts = asdict(self)
        return facts if self.options else {name: value for name, value in facts.items() if name != "options"}

    def __repr__(self) -> str:
        """Of the facts, from which fingerprints are made: options that are not there leave no trace in it."""
        return f"Recipe({', '.join(f'{name}={value!r}' for name, value in self.facts().items())})"


class Trajectory(Sequence[Checkpoint]):
    """Checkpoints in the order of training.

    Args:
        checkpoints: at least one, with increasing steps.
        recipe: how they came about.
        losses: mean training loss of each epoch, in nats.

    Raises:
        InvalidInput: if there is none, the order is wrong, or a weight or a loss is no finite number.
    """

    def __init__(
        self, checkpoints: Sequence[Checkpoint], recipe: Recipe | None = None, losses: Sequence[float] = ()
    ) -> None:
        if not checkpoints:
            raise InvalidInput("a trajectory needs at least one checkpoint")
        for before, after in itertools.pairwise(checkpoints):
            if after.step <= before.step:
                raise InvalidInput(f"checkpoint at step {after.step} follows the one at step {before.step}: sort them")
        for checkpoint in checkpoints:
            for name, tensor in checkpoint.state.items():
                check_finite(tensor, f"{name} of the checkpoint at step {checkpoint.step}")
        self.checkpoints = tuple(checkpoints)
        self.recipe = recipe or Recipe()
        self.losses = tuple(_number(loss, "a loss of the trajectory", (-math.inf, math.inf)) for loss in losses)

    def __len__(self) -> int:
        """Number of checkpoints."""
        return len(self.checkpoints)

    def __getitem__(self, index: Any) -> Any:
        """A checkpoint, or the ``Trajectory`` of a slice of them."""
        if isinstance(index, slice):
            return Trajectory(self.checkpoints[index], self.recipe, self.losses)
        return self.checkpoints[index]

    def __iter__(self) -> Iterator[Checkpoint]:
        """The checkpoints from first to last."""
        return iter(self.checkpoints)

    def __repr__(self) -> str:
        """Number of checkpoints, their epochs and the optimiser."""
        epochs = ", ".join(f"{c.epoch:g}" for c in self)
        return f"Trajectory({len(self)} checkpoints at epochs {epochs}; {self.recipe.optimizer})"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all checkpoints and the recipe."""
        digest = hashlib.sha256(repr(self.recipe).encode())
        for checkpoint in self:
            digest.update(repr(checkpoint.facts()).encode())
            for name in sorted(checkpoint.state):
                digest.update(name.encode())
                add_tensor(digest, checkpoint.state[name])
        return digest.hexdigest()


def _settle(thing: Any, what: str, counts: dict[str, tuple[int, int]], rates: dict[str, tuple[float, float]]) -> None:
    """Check fields of a frozen dataclass and make them Python's own numbers.

    Args:
        thing: the dataclass.
        what: whose they are, for the message.
        counts: field -> smallest and largest integer.
        rates: field -> smallest and largest real number.

    Raises:
        InvalidInput: naming the field.
    """
    for name, (least, most) in counts.items():
        value: Any = getattr(thing, name)
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not least <= value <= most:
            raise InvalidInput(f"{name} {what} is {value!r}, expected an integer from {least} to {most}")
        object.__setattr__(thing, name, int(value))
    for name, limits in rates.items():
        object.__setattr__(thing, name, _number(getattr(thing, name), f"{name} {what}", limits))


def _number(value: Any, what: str, limits: tuple[float, float]) -> float:
    if (
        not isinstance(value, (int, float, np.number))
        or isinstance(value, (bool, np.complexfloating))
        or not math.isfinite(value)
    ):
        raise InvalidInput(f"{what} is {value!r}, expected a finite number")
    if not limits[0] <= value <= limits[1]:
        raise InvalidInput(f"{what} is {value!r}, expected a number from {limits[0]:g} to {limits[1]:g}")
    return float(value)
