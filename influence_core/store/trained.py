"""What one training gives: losses and hits on the test set, and the model itself where it is kept."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput
from influence_core.models import load_weights
from influence_core.pieces import packed, unpacked
from influence_core.study import Study
from influence_core.training import Checkpoint, Recipe, Trajectory

_STATE = "state-"
"""Before the names of the weights of a checkpoint, with its number."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What a model trained anew says of the test set, and the model itself where it is kept.

    Attributes:
        losses: of the test images, float64 [M].
        right: whether they are predicted right, bool [M]; ``None`` where labels are no classes.
        seconds: of the training.
        weights: of the model and its checkpoints, where they are kept.
    """

    losses: Tensor
    right: Tensor | None
    seconds: float
    weights: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def study(self, study: Study, data: LabelledDataset, name: str) -> Study:
        """The study with this model; see ``study_with``."""
        return study_with(study, self.weights, data, name)

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, as ``trained_of`` reads it."""
        right = {} if self.right is None else {"right": self.right}
        return {"losses": self.losses, "seconds": torch.tensor(self.seconds), **right, **self.weights}


def study_with(study: Study, weights: Mapping[str, Tensor], data: LabelledDataset, name: str) -> Study:
    """A study with a model that was trained anew.

    Args:
        study: whose model it was.
        weights: from ``kept_weights``.
        data: that it was trained on.
        name: of the new study.

    Returns:
        The study; it has a trajectory where the recipe trained.
    """
    facts = unpacked(weights["facts"])
    states: list[dict[str, Tensor]] = [{} for _ in facts["checkpoints"]]
    for key, tensor in weights.items():
        if key.startswith(_STATE):
            number, _, weight = key.removeprefix(_STATE).partition("/")
            states[int(number)][weight] = tensor.clone()
    model = load_weights(copy.deepcopy(study.model), states[-1], "the model that was trained anew")
    if facts["recipe"] is None:
        return study.replaced(model=model, train=data, trajectory=None, name=name)
    checkpoints = [Checkpoint(**one, state=s) for one, s in zip(facts["checkpoints"], states, strict=True)]
    trajectory = Trajectory(checkpoints, Recipe(**facts["recipe"]), facts["losses"])
    return study.replaced(model=model, train=data, trajectory=trajectory, name=name)


def trained_of(tensors: Mapping[str, Tensor]) -> Trained:
    """What ``Trained.tensors`` gave.

    Args:
        tensors: by name.

    Returns:
        The training.

    Raises:
        InvalidInput: if these are other tensors.
    """
    if not {"losses", "seconds"} <= tensors.keys():
        raise InvalidInput(f"this holds no training, but {', '.join(sorted(tensors)[:4])}: make it anew")
    weights = {name: t for name, t in tensors.items() if name == "facts" or name.startswith(_STATE)}
    return Trained(tensors["losses"], tensors.get("right"), float(tensors["seconds"]), weights)


def kept_weights(model: torch.nn.Module, trajectory: Trajectory | None) -> dict[str, Tensor]:
    """The model, or its checkpoints, as tensors with plain facts beside them.

    Args:
        model: trained.
        trajectory: whose last checkpoint it is, or ``None``.

    Returns:
        By name, for ``study_with``.
    """
    if trajectory is None:
        whole = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        checkpoints, states = [Checkpoint(0, 0.0, 0.0, 0.0, 0.0, whole).facts()], [whole]
        facts: dict[str, Any] = {"checkpoints": checkpoints, "recipe": None, "losses": []}
    else:
        states = [checkpoint.state for checkpoint in trajectory]
        facts = {
            "checkpoints": [checkpoint.facts() for checkpoint in trajectory],
            "recipe": trajectory.recipe.facts(),
            "losses": list(trajectory.losses),
        }
    named = {f"{_STATE}{n}/{name}": t for n, state in enumerate(states) for name, t in state.items()}
    return {"facts": packed(facts), **named}
