"""The path that every application takes to a model trained anew: seeds times training sets, each training kept.

An application says first which trainings it needs, so that a job can make them, and makes those that are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from influence_core.applications.paired import Gain, paired
from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput
from influence_core.pieces import parts, piece
from influence_core.progress import track
from influence_core.store import Store, Trained, Training, Trainings
from influence_core.store.retrainings import RECIPE, Retrain, function_of
from influence_core.store.trained import trained_of
from influence_core.store.training import train
from influence_core.study import Study

DataOfSeed = Callable[[int], LabelledDataset]
"""The training set of a seed; a random choice is another one for each."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What models trained on one kind of training set say of the test set; a row a seed.

    Attributes:
        right: whether each test image is predicted right, bool [S, M].
        losses: float64 [S, M].
    """

    right: Tensor
    losses: Tensor

    def __post_init__(self) -> None:
        """Check shapes."""
        if self.right.ndim != 2 or self.right.shape != self.losses.shape or self.right.dtype != torch.bool:
            raise InvalidInput(
                f"right is {self.right.dtype} {tuple(self.right.shape)} and losses {tuple(self.losses.shape)}; "
                "expected bool and numbers [seeds, test images]"
            )

    @property
    def accuracies(self) -> list[float]:
        """Share of test images that each seed predicts right, 0 to 1."""
        found: list[float] = self.right.double().mean(1).tolist()
        return found

    @property
    def accuracy(self) -> float:
        """Their mean."""
        return float(self.right.double().mean())

    @property
    def loss(self) -> float:
        """Mean loss of the test images, over all seeds."""
        return float(self.losses.mean())

    def gain(self, other: Outcome) -> Gain:
        """Accuracy of this less that of another, in pairs of the same seed and test image.

        Args:
            other: of the same seeds and test images.

        Returns:
            The gain, -1 to 1, with its interval.
        """
        return paired(self.right.double() - other.right.double())


@dataclass(frozen=True, eq=False)
class Wanted:
    """A training that an application needs.

    Attributes:
        name: of the training set, words of letters, digits and hyphens.
        seed: of the weights and the order of the batches.
        data: to train on.
        weights: of the loss of each image, float64 [n], or ``None``.
        keep: whether the weights of the model are kept.
    """

    name: str
    seed: int
    data: LabelledDataset
    weights: Tensor | None = None
    keep: bool = False


def wanted(sets: Mapping[str, DataOfSeed], seeds: Sequence[int], keep: Sequence[str] = ()) -> list[Wanted]:
    """Which trainings several training sets need, with every seed.

    Args:
        sets: name -> the training set of a seed.
        seeds: one training each for every set.
        keep: names of the sets whose model is wanted, that of the first seed.

    Returns:
        The trainings, seed after seed.

    Raises:
        InvalidInput: if there is no seed.
    """
    if not len(seeds):
        raise InvalidInput("seeds is empty: models are trained for each, so give at least one, such as (0,)")
    return [
        Wanted(name, int(seed), data(int(seed)), keep=name in keep and not number)
        for number, seed in enumerate(seeds)
        for name, data in sets.items()
    ]


def asked(study: Study, these: Sequence[Wanted], retrain: str | Retrain, purpose: str) -> Trainings:
    """The trainings as a store and a job know them.

    Args:
        study: whose model, loss, recipe and test set are used.
        these: the trainings.
        retrain: "recipe", or a function that has a name.
        purpose: what they are for, in a few words for a person.

    Returns:
        The task.
    """
    members = [Training.of(study, one.data, one.seed, retrain, one.weights, one.keep) for one in these]
    return Trainings(study, members, purpose)


def trained(
    study: Study, these: Sequence[Wanted], retrain: str | Retrain, store: Store | None, purpose: str
) -> list[Trained]:
    """Trainings: what a store or the piece of work under way has of them, and what is missing made now.

    Args:
        study: whose model, loss, recipe and test set are used.
        these: the trainings.
        retrain: trains, see ``outcomes``.
        store: where they are kept.
        purpose: what they are for, in a few words for a person.

    Returns:
        The trainings in order.
    """
    if store is not None:
        found: list[Trained] = store.compute(asked(study, these, retrain, purpose))
        return [replace(one, losses=one.losses.clone()) for one in found]
    function = function_of(retrain) if isinstance(retrain, str) else retrain
    return [_made(study, one, function) for one in track(these, purpose)]


def _made(study: Study, one: Wanted, function: Retrain) -> Trained:
    def made() -> Mapping[str, Tensor]:
        return train(study, one.data, one.seed, function, one.weights, one.keep).tensors()

    with parts(one.name):
        return trained_of(piece(f"seed-{one.seed}", made))


def outcomes(
    study: Study,
    these: Sequence[Wanted],
    *,
    retrain: str | Retrain = RECIPE,
    store: Store | None = None,
    purpose: str = "training again",
) -> tuple[dict[str, Outcome], dict[str, Trained]]:
    """Train the model of a study on several training sets, with every seed, and judge each model on the test set.

    All models of one seed begin from the same new weights. Each training is a piece of the work under way
    (``influence_core.pieces``), or kept in a store, where whoever asks for it again finds it.

    Args:
        study: with labels that are classes.
        these: the trainings, see ``wanted``.
        retrain: "recipe", or ``retrain(study, kept, seed)``, which is given the study with the set for its training
            set, and all of its ids; a store needs one with a name, see ``ic.store.Retrainings``.
        store: where finished trainings are kept.
        purpose: what they are for, which is shown meanwhile.

    Returns:
        The outcomes by the names of the sets, and by name the trainings whose models were to be kept.
    """
    study.need_classes("training again")
    done: dict[str, list[Trained]] = {}
    kept: dict[str, Trained] = {}
    for one, made in zip(these, trained(study, these, retrain, store, purpose), strict=True):
        done.setdefault(one.name, []).append(made)
        if one.keep:
            kept[one.name] = made
    found = {}
    for name, models in done.items():
        right = [one.right for one in models if one.right is not None]
        found[name] = Outcome(torch.stack(right), torch.stack([one.losses for one in models]))
    return found, kept
