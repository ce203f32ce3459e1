"""Record a trajectory in a training loop of one's own."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from influence_core.errors import InvalidInput
from influence_core.training.fit import whole
from influence_core.training.sharpness import ASAM, FSAM, LPFSGD, SAM, SharpnessAware
from influence_core.training.trajectory import Checkpoint, Recipe, Trajectory

_NAMES: dict[type, str] = {SAM: "sam", ASAM: "asam", FSAM: "fsam", LPFSGD: "lpf"}


class _Snapshot(NamedTuple):
    """The model after ``step`` steps; ``rate_sum`` is over all of them."""

    step: int
    rate: float
    rate_sum: float
    rho: float
    state: dict[str, Tensor]


class Recorder:
    """Watches an optimiser and keeps copies of the model, without a line in the training loop.

    It is called by the optimiser after each of its steps, so that whatever sets the learning rate (a scheduler, the
    loop itself), or leaves a step out (a gradient scaler), is seen as it was. Copies go to the CPU. How long the
    training will take need not be known: where ``checkpoints`` of them are to be kept, every step is copied at first,
    and whenever there are twice too many every second copy is let go.

    A checkpoint has one learning rate. Of an optimiser with several groups of parameters it is that of the group with
    the most numbers in it, and so are momentum and weight decay of the recipe; where the groups' learning rates or
    weight decays differ, ``trajectory`` warns of it. The recipe has what the optimiser said when the recorder was made.

    Args:
        model: that is trained.
        optimizer: over its parameters: any of ``torch.optim``, or ``ic.training.SAM`` and the like. Of another
            sharpness-aware wrapper, the optimiser inside of it, with ``rho``.
        checkpoints: how many to keep, evenly spaced over the training, the last one at its end.
        every: keep all checkpoints after so many steps each, or after each "epoch", instead.
        steps_per_epoch: ``len(loader)``. Without it a checkpoint's epoch is 0, and so are the recipe's epochs.
        batch_size: samples per step, for the recipe; methods that train again need it.
        rho: radius of a sharpness-aware ascent that the optimiser does not tell of.
        seed: of the order of the batches, for the recipe.

    Raises:
        InvalidInput: if the optimiser trains nothing of the model, or a number makes no sense.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> recorder = Recorder(model, optimizer, checkpoints=3, steps_per_epoch=2)
        >>> for _ in range(6):
        ...     model(torch.ones(1, 2)).sum().backward()
        ...     optimizer.step()
        >>> recorder.trajectory()
        Trajectory(3 checkpoints at epochs 1, 2, 3; sgd)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | SharpnessAware,
        *,
        checkpoints: int = 5,
        every: int | Literal["epoch"] | None = None,
        steps_per_epoch: int | None = None,
        batch_size: int = 0,
        rho: float | None = None,
        seed: int = 0,
    ) -> None:
        base = optimizer.base if isinstance(optimizer, SharpnessAware) else optimizer
        if not isinstance(base, Optimizer):
            raise InvalidInput(
                f"optimizer is a {type(base).__name__}, expected one of torch.optim, or of ic.training (SAM and the "
                "like); of another wrapper around an optimizer pass the one inside"
            )
        self._model, self._optimizer, self._base = model, optimizer, base
        self._steps_per_epoch = None if steps_per_epoch is None else _positive("steps_per_epoch", steps_per_epoch)
        if every == "epoch" and self._steps_per_epoch is None:
            raise InvalidInput("every='epoch' needs steps_per_epoch, the number of steps in one: len(loader)")
        self._every = (
            self._steps_per_epoch if every == "epoch" else None if every is None else _positive("every", every)
        )
        self._most = _positive("checkpoints", checkpoints)
        self._batch_size, self._seed, self._rho = whole("batch_size", batch_size), whole("seed", seed), rho
        self._group = self._largest_group()
        self._first = dict(base.param_groups[self._group], params=None)
        self._stride, self._step, self._sum, self._rate = 1, 0, 0.0, 0.0
        self._uneven: set[tuple[float, ...]] = set()
        self._snapshots: list[_Snapshot] = []
        self._handle = base.register_step_post_hook(self._stepped)

    def __enter__(self) -> Recorder:
        """Itself; at the end of the ``with`` block it stops to watch."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """See ``close``."""
        self.close()

    def __repr__(self) -> str:
        """Steps seen, and copies held."""
        return f"Recorder({self._step} steps of {type(self._base).__name__}, {len(self._snapshots)} copies held)"

    def close(self) -> None:
        """Stop to watch the optimiser; what was recorded stays."""
        self._handle.remove()

    def trajectory(self) -> Trajectory:
        """What was recorded so far; the model as it is after the last step is the last checkpoint.

        Returns:
            Checkpoints with steps, epochs and learning rates, and a recipe from the optimiser's first settings.

        Raises:
            InvalidInput: if no step was made, or a weight is no finite number.
        """
        if not self._step:
            raise InvalidInput(
                "the optimizer made no step since the Recorder was made, so there is nothing to record: make it before "
                "the loop, with the optimizer that the loop calls"
            )
        found = [*self._snapshots]
        if not found or found[-1].step < self._step:
            found.append(self._snapshot())
        kept = found if self._every else _spread(found, self._most)
        self._warn()
        return Trajectory(self._checkpoints(kept), self._recipe())

    def _stepped(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._step += 1
        rates = tuple(float(group["lr"]) for group in self._base.param_groups)
        self._rate = rates[self._group]
        self._sum += self._rate
        if len(set(rates)) > 1:
            self._uneven.add(rates)
        if self._step % (self._every or self._stride):
            return
        self._snapshots.append(self._snapshot())
        if not self._every and len(self._snapshots) >= 2 * self._most:
            self._snapshots = self._snapshots[1::2]
            self._stride *= 2

    def _snapshot(self) -> _Snapshot:
        state = {
            name: value.detach().to("cpu", copy=True)
            for name, value in self._model.state_dict().items()
            if isinstance(value, Tensor)
        }
        return _Snapshot(self._step, self._rate, self._sum, self._radius(), state)

    def _checkpoints(self, kept: list[_Snapshot]) -> list[Checkpoint]:
        found, before = [], 0.0
        for shot in kept:
            epoch = shot.step / self._steps_per_epoch if self._steps_per_epoch else 0.0
            found.append(Checkpoint(shot.step, epoch, shot.rate, shot.rate_sum - before, shot.rho, shot.state))
            before = shot.rate_sum
        return found

    def _largest_group(self) -> int:
        """The group with the most numbers, of those that the model has."""
        own = {id(parameter) for parameter in self._model.parameters()}
        sizes = [sum(p.numel() for p in group["params"] if id(p) in own) for group in self._base.param_groups]
        if not any(sizes):
            raise InvalidInput(
                "the optimizer holds none of the model's parameters: make it with model.parameters(), of the very "
                "model that is recorded"
            )
        return sizes.index(max(sizes))

    def _radius(self) -> float:
        if self._rho is not None:
            return self._rho
        return float(getattr(self._optimizer, "rho", 0.0)) if isinstance(self._optimizer, SharpnessAware) else 0.0

    def _recipe(self) -> Recipe:
        epochs = math.ceil(self._step / self._steps_per_epoch) if self._steps_per_epoch else 0
        return Recipe(
            self._name(),
            learning_rate=float(self._first["lr"]),
            momentum=float(self._first.get("momentum", 0.0)),
            weight_decay=float(self._first.get("weight_decay", 0.0)),
            rho=self._radius(),
            batch_size=self._batch_size,
            epochs=epochs,
            seed=self._seed,
            options=self._options(),
        )

    def _name(self) -> str:
        """As ``fit`` calls it; another one by its class, which ``fit`` refuses to take for its own."""
        plain = type(self._base) is torch.optim.SGD
        if plain and not any(self._first.get(name) for name in ("nesterov", "dampening", "maximize")):
            known = _NAMES.get(type(self._optimizer), "sgd")
            return "sam" if known == "sgd" and self._rho else known
        turned = [name for name in ("nesterov", "dampening", "maximize") if self._first.get(name)]
        return " with ".join([type(self._base).__name__.lower(), *([" and ".join(turned)] if turned else [])])

    def _options(self) -> dict[str, Any]:
        names = {"asam": ("eta",), "fsam": ("sigma", "decay"), "lpf": ("gamma", "parts")}.get(self._name(), ())
        return {name: value for name in names if (value := getattr(self._optimizer, name, None)) is not None}

    def _warn(self) -> None:
        groups = self._base.param_groups
        decays = tuple(float(group.get("weight_decay", 0.0)) for group in groups)
        told: Mapping[str, set[tuple[float, ...]]] = {
            "learning rates": self._uneven,
            "weight decays": {decays} if len(set(decays)) > 1 else set(),
        }
        for what, uneven in told.items():
            if uneven:
                some = ", ".join(f"{value:g}" for value in min(uneven))
                warnings.warn(
                    f"the optimizer's groups have different {what} ({some}), and a trajectory has one: it says that of "
                    f"group {self._group}, which holds the most weights",
                    UserWarning,
                    stacklevel=3,
                )


def _positive(name: str, value: Any) -> int:
    number = whole(name, value)
    if number < 1:
        raise InvalidInput(f"{name}={value!r}: expected a whole number from 1")
    return number


def _spread(found: list[_Snapshot], most: int) -> list[_Snapshot]:
    """At most so many, as even over the steps as they can be; the last one always."""
    if len(found) <= most:
        return found
    last, kept, left = found[-1].step, [], found[:]
    for number in range(1, most):
        wanted = last * number / most
        choice = min(left[: len(left) - (most - number)], key=lambda shot: abs(shot.step - wanted))
        kept.append(choice)
        left = left[left.index(choice) + 1 :]
    return [*kept, found[-1]]
