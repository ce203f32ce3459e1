"""The path that every application takes to a model trained anew: seeds times training sets, each training kept."""

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
from influence_core.store import Store, Trained, Training
from influence_core.store.retrainings import RECIPE, Retrain, function_of
from influence_core.store.training import train, trained_of
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


def outcomes(
    study: Study,
    sets: Mapping[str, DataOfSeed],
    seeds: Sequence[int],
    *,
    retrain: str | Retrain = RECIPE,
    store: Store | None = None,
    keep: Sequence[str] = (),
    title: str = "training again",
) -> tuple[dict[str, Outcome], dict[str, Trained]]:
    """Train the model of a study on several training sets, with every seed, and judge each model on the test set.

    All models of one seed begin from the same new weights. Each training is a piece of the work under way
    (``influence_core.pieces``), or kept in a store, where whoever asks for it again finds it.

    Args:
        study: with labels that are classes.
        sets: name, words of letters, digits and hyphens -> the training set of a seed.
        seeds: one training each for every set.
        retrain: "recipe", or ``retrain(study, kept, seed)``, which is given the study with the set for its training
            set, and all of its ids; a store needs one with a name, see ``ic.store.Retrainings``.
        store: where finished trainings are kept.
        keep: names of the sets whose model is wanted, that of the first seed.
        title: of the progress shown.

    Returns:
        The outcomes by name, and the trainings that were to be kept.

    Raises:
        InvalidInput: if there is no seed.
    """
    study.need_classes("training again")
    if not len(seeds):
        raise InvalidInput("seeds is empty: models are trained for each, so give at least one, such as (0,)")
    done: dict[str, list[Trained]] = {name: [] for name in sets}
    for seed, name in track([(int(seed), name) for seed in seeds for name in sets], title):
        data, whole = sets[name](seed), name in keep and not done[name]
        done[name].append(trained(study, data, seed, retrain=retrain, store=store, keep=whole, name=name))
    found = {}
    for name, models in done.items():
        right = [one.right for one in models if one.right is not None]
        found[name] = Outcome(torch.stack(right), torch.stack([one.losses for one in models]))
    return found, {name: done[name][0] for name in keep}


def trained(
    study: Study,
    data: LabelledDataset,
    seed: int,
    *,
    retrain: str | Retrain = RECIPE,
    weights: Tensor | None = None,
    store: Store | None = None,
    keep: bool = False,
    name: str = "training",
) -> Trained:
    """One training: what a store or the piece of work under way has of it, or else made now.

    Args:
        study: whose model, loss, recipe and test set are used.
        data: to train on.
        seed: of the weights and the order of the batches.
        retrain: trains, see ``outcomes``.
        weights: of the loss of each image, float64 [n].
        store: where it is kept.
        keep: keep the weights of the model.
        name: of the piece, with the seed.

    Returns:
        The training.
    """
    if store is not None:
        found: Trained = store.compute(Training.of(study, data, seed, retrain, weights, keep))
        return replace(found, losses=found.losses.clone())
    function = function_of(retrain) if isinstance(retrain, str) else retrain
    with parts(name):
        return trained_of(
            piece(f"seed-{seed}", lambda: train(study, data, seed, function, weights, keep).tensors()),
        )
