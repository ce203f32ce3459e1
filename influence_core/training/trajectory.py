"""What training left behind: checkpoints with the learning rate and radius that were in force."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from influence_core.errors import InvalidInput
from influence_core.models.weights import check_finite


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
    """

    step: int
    epoch: float
    learning_rate: float
    learning_rate_sum: float
    rho: float
    state: dict[str, Tensor] = field(repr=False)

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
        InvalidInput: if there is none, the order is wrong, or a weight is NaN or infinite.
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
        self.losses = tuple(losses)

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
                tensor = checkpoint.state[name].detach().cpu().reshape(-1)
                digest.update(f"{name}{tensor.dtype}".encode())
                digest.update(tensor.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
