"""One model trained anew on one training set: what closing the loop asks for again and again, so kept one by one.

A training is named by the study, the training set, the weights of its images, the function that trains and the seed.
Whoever asks for the same training, whatever for, finds it: the models on the labels as they were stand beside every
removal, relabelling and pruning.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from influence_core.data import LabelledDataset, SampleSet
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators.changes import Weighted
from influence_core.estimators.detectors.from_scratch import recipe_of
from influence_core.identity import add_tensor, check_identified, identify
from influence_core.inputs import with_factors
from influence_core.measure import measure
from influence_core.models import dataset_losses, load_weights, model_outputs
from influence_core.pieces import packed, unpacked
from influence_core.store.place import Shard
from influence_core.store.retrainings import RECIPE, Retrain, function_of, name_of
from influence_core.store.task import FORMAT, Task
from influence_core.study import Study
from influence_core.training import Checkpoint, Recipe, Trajectory, fit_fresh

if TYPE_CHECKING:
    from influence_core.estimators import Estimator

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


def train(
    study: Study, data: LabelledDataset, seed: int, function: Retrain, weights: Tensor | None, keep: bool
) -> Trained:
    """Train the model of a study anew, and judge it on the test set.

    Args:
        study: whose model, loss, recipe and test set are used.
        data: to train on.
        seed: of the weights and the order of the batches.
        function: trains; that of "recipe" takes the recipe of the study.
        weights: of the loss of each image, [n]; ``None`` where each counts once.
        keep: keep the weights, and up to five checkpoints where the recipe trains.

    Returns:
        Losses, hits and weights.

    Raises:
        NotSupported: if images have weights, and another function than that of "recipe" trains.
    """
    with measure() as cost:
        if function is function_of(RECIPE):
            loss = study.loss if weights is None else Weighted(study.loss)
            images = data if weights is None else _WeightedSet(data, weights)
            recipe, count = recipe_of(study), 1
            if keep:
                count = max(1, min(5, recipe.epochs))
            model, done = fit_fresh(study.model, images, recipe, seed=seed, loss=loss, checkpoints=count)
            trajectory: Trajectory | None = done
        else:
            if weights is not None:
                raise NotSupported("images get other weights by 'recipe' alone; a function may leave images out")
            changed = study if data is study.train else study.replaced(train=data)
            model, trajectory = function(changed, torch.arange(len(data)), seed).eval(), None
        losses, right = _judged(study, model)
    return Trained(losses, right, cost.seconds or 0.0, kept_weights(model, trajectory) if keep else {})


@dataclass(frozen=True, eq=False)
class Training(Task):
    """One model trained anew, and what it says of the test set.

    Attributes:
        study: whose model, loss, recipe and test set are used.
        data: to train on.
        seed: of the weights and the order of the batches.
        retrain: "recipe", or ``module:function`` of a ``retrain(study, kept, seed)`` that can be imported.
        weights: of the loss of each image, float64 [n], or ``None``.
        keep: whether the weights of the model are kept.
    """

    study: Study
    data: LabelledDataset
    seed: int
    retrain: str = RECIPE
    weights: Tensor | None = None
    keep: bool = False
    what: str = field(default="training", init=False)
    test: None = field(default=None, init=False)
    estimator: None = field(default=None, init=False)

    @classmethod
    def of(
        cls,
        study: Study,
        data: LabelledDataset,
        seed: int,
        retrain: str | Retrain = RECIPE,
        weights: Tensor | None = None,
        keep: bool = False,
    ) -> Training:
        """Check what is asked; see the attributes.

        Args:
            study: that it is about.
            data: to train on.
            seed: of the training.
            retrain: "recipe", a function that another process can import, or its name.
            weights: of the images.
            keep: the weights of the model.

        Returns:
            The task.
        """
        check_identified(study.unidentified, "models trained anew")
        function_of(name_of(retrain))
        return cls(study, data, int(seed), name_of(retrain), weights, keep)

    @cached_property
    def about(self) -> dict[str, Any]:
        """All that the model depends on, as JSON."""
        digest = hashlib.sha256()
        if self.weights is not None:
            add_tensor(digest, self.weights)
        return {
            "format": FORMAT,
            "study": self.study.fingerprint,
            "what": self.what,
            "data": self.data.fingerprint,
            "weights": None if self.weights is None else digest.hexdigest(),
            "retrain": self.retrain,
            "code": identify(function_of(self.retrain), self.retrain).sha256,
            "seed": self.seed,
            "keep": self.keep,
        }

    @property
    def title(self) -> str:
        """What is asked, for a person."""
        return f"Training on {len(self.data)} images, seed {self.seed}"

    @property
    def is_change(self) -> bool:
        """The answer is tensors by name."""
        return True

    def shards(self) -> list[range]:
        """One."""
        return [range(1)]

    def compute(self, estimator: Estimator | None, rows: range) -> Shard:
        """Train."""
        done = train(self.study, self.data, self.seed, function_of(self.retrain), self.weights, self.keep)
        return Shard(done.tensors(), {"meta": {"seconds": done.seconds, "seed": self.seed}})

    def answer_tensors(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Trained:
        """The training."""
        return trained_of(tensors)

    def answer(self, values: Tensor, ids: Tensor, facts: Mapping[str, Any]) -> Any:
        """There are no rows.

        Raises:
            NotSupported: always.
        """
        raise NotSupported("a training is no table of scores")

    def column_names(self, shape: tuple[int, ...]) -> list[str]:
        """None."""
        return []

    def spec(self) -> dict[str, Any]:
        """Not for other processes, which would need the training set.

        Raises:
            NotSupported: always.
        """
        raise NotSupported("single trainings are made in this process; give a job whole subsets: retrain_subsets")


class _WeightedSet(LabelledDataset):
    """Images whose labels carry the factor of their loss, for ``Weighted``."""

    def __init__(self, data: LabelledDataset, weights: Tensor) -> None:
        if isinstance(data, SampleSet):
            raise NotSupported("training with weights is there for images with labels that are classes, not SampleSet")
        self._read: Callable[[Any], tuple[Tensor, Tensor]] = data.batch
        self._factors = weights
        super().__init__(data, labels=data.labels, name=data.name)

    def batch(self, ids: Any) -> tuple[Tensor, Any]:
        """Inputs, and labels with factors."""
        inputs, labels = self._read(ids)
        return inputs, with_factors(labels, self._factors[torch.as_tensor(ids, dtype=torch.long)])


@torch.no_grad()
def _judged(study: Study, model: torch.nn.Module) -> tuple[Tensor, Tensor | None]:
    if isinstance(study.test, SampleSet) or study.classes is None:
        losses = dataset_losses(model, study.loss, study.test)
        if study.classes is None:
            return losses.double(), None
        return losses.double(), model_outputs(model, study.test).argmax(1) == study.test.labels
    outputs = model_outputs(model, study.test)
    return study.loss(outputs, study.test.labels).double(), outputs.argmax(1) == study.test.labels


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
