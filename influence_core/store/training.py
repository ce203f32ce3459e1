"""One model trained anew on one training set: what closing the loop asks for again and again, so kept one by one.

A training is named by the study, the training set, the weights of its images, the function that trains and the seed.
Whoever asks for the same training, whatever for, finds it: the models on the labels as they were stand beside every
removal, relabelling and pruning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from influence_core.data import LabelledDataset, SampleSet
from influence_core.errors import InvalidInput, NotSupported, StaleResult
from influence_core.estimators.changes import Weighted
from influence_core.estimators.detectors.from_scratch import recipe_of
from influence_core.identity import add_tensor, check_identified, identify
from influence_core.inputs import with_factors
from influence_core.measure import measure
from influence_core.models import dataset_losses, model_outputs
from influence_core.store.place import Shard
from influence_core.store.retrainings import RECIPE, Retrain, function_of, module_of, name_of
from influence_core.store.task import FORMAT, Task, check_current, key_of
from influence_core.store.trained import Trained, kept_weights, trained_of
from influence_core.store.training_set import TrainingSet
from influence_core.study import Study
from influence_core.training import Trajectory, fit_fresh

if TYPE_CHECKING:
    from influence_core.estimators import Estimator


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
    here: ClassVar[str] = "train in this process, store.compute(training)"
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
        factors = None if weights is None else weights.double()
        return cls(study, data, int(seed), name_of(retrain), factors, keep)

    @property
    def module(self) -> str:
        """The module of the function."""
        return module_of(self.retrain)

    @cached_property
    def training_set(self) -> TrainingSet:
        """The training set, seen from that of the study."""
        return TrainingSet.of(self.study.train, self.data, self.weights)

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
        """The task as plain JSON, from which ``from_spec`` makes it again in another process.

        Returns:
            Plain values.

        Raises:
            NotSupported: if the training set is no change of the study's own.
        """
        self.training_set.check()
        return {**self.about, "set": self.training_set.facts()}

    @classmethod
    def from_spec(cls, study: Study, spec: Mapping[str, Any]) -> Training:
        """Make a task again.

        Args:
            study: the same one.
            spec: from ``spec``.

        Returns:
            The task, with the same key.

        Raises:
            StaleResult: if the study, the training set or the code of the function is another one by now.
            InvalidInput: if this is no spec.
        """
        try:
            check_current(study, spec["study"])
            chosen = TrainingSet.from_facts(spec["set"])
            data, retrain = chosen.data(study.train), str(spec["retrain"])
            found = cls(study, data, int(spec["seed"]), retrain, chosen.factors(len(data)), bool(spec["keep"]))
            wanted = key_of({name: value for name, value in spec.items() if name != "set"})
        except (KeyError, TypeError, IndexError) as error:
            raise InvalidInput(f"this describes no training of this version: {error!r}") from error
        if found.key != wanted:
            raise StaleResult(f"the code that trains is another one than when {found.title!r} was asked for: ask again")
        return found


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
