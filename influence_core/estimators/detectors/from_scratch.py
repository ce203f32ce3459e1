"""What estimators share that train the model again from new weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from influence_core.errors import InvalidInput
from influence_core.estimators.base import Estimator
from influence_core.estimators.work import Work, passes_of, trained
from influence_core.pieces import piece
from influence_core.study import Study
from influence_core.training import Recipe, Watch, train_fresh

DEFAULT = Recipe(optimizer="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.0, rho=0.0, batch_size=128, epochs=30)
"""Where a study has no trajectory, or one that does not say how it came about; weight decay is the study's."""


@dataclass
class FromScratch(Estimator):
    """Base of estimators that train new models on the study's training set, with the recipe of its trajectory.

    Without a trajectory, or where it has no recipe, training takes SGD with learning rate 0.1, momentum 0.9, the
    study's weight decay, batches of 128 and 30 epochs. A study does not know its augmentation: training goes without.
    Batch normalisation and dropout are in training mode while training and in eval mode for scores.
    """

    reasons: ClassVar[dict[str, str]] = dict.fromkeys(
        ("influence", "self_influence", "parameter_change"),
        "it looks at what training makes of each image, not at what the image does to the model",
    ) | {"label_influence": "it measures how hard the given label is to learn, and looks at no other"}
    by_rows: ClassVar[frozenset[str]] = frozenset({"mislabel_scores"})
    learned: ClassVar[tuple[str, ...]] = ("recipe_",)
    exempt: ClassVar[dict[str, str]] = {
        "order_of_training_images": "training draws batches by place in the dataset",
        "rotated_inputs": "new weights are drawn in the coordinates of the inputs",
    }

    def _train(
        self,
        study: Study,
        seed: int,
        title: str,
        of: Callable[[nn.Module], Mapping[str, Tensor]],
        *,
        ids: Tensor | None = None,
        epoch_share: float = 1.0,
        watch: Watch | None = None,
    ) -> dict[str, Tensor]:
        """Train once, which is a piece of the work.

        Args:
            study: whose model, data, loss and recipe are used.
            seed: of the weights and batches; another one for each training.
            title: of the progress shown.
            of: the trained model, in eval mode -> what is wanted of it.
            ids: training images to train on; all by default.
            epoch_share: of the recipe's epochs; one epoch at least.
            watch: see ``ic.training.fit``.

        Returns:
            What is wanted, on the CPU or where it was made.
        """
        recipe = self.recipe_ = recipe_of(study)

        def train() -> Mapping[str, Tensor]:
            data = study.train if ids is None else study.train.subset(ids)
            epochs = max(1, round(epoch_share * recipe.epochs))
            options: dict[str, Any] = {"epochs": epochs, "loss": study.loss, "watch": watch, "title": title}
            return of(train_fresh(study.model, data, recipe, seed=seed, **options))

        return piece(f"training-{seed}", train)

    def _trained_work(self, study: Study, epoch_share: float, share: float = 1.0) -> Work:
        """One training on a share of the training images."""
        recipe = recipe_of(study)
        epochs = max(1, round(epoch_share * recipe.epochs))
        return trained(round(share * len(study.train)), epochs, recipe.batch_size, passes_of(recipe))

    def _call_work(self, study: Study, what: str, tests: int) -> Work:
        return Work()  # all is done in fit

    def _check_share(self, epoch_share: float) -> None:
        if not 0 < epoch_share < math.inf:
            raise InvalidInput(
                f"epoch_share is {epoch_share}; it is a share of the study's own epochs, so above 0 (1: as many)"
            )

    def _facts(self) -> dict[str, Any]:
        known = hasattr(self, "recipe_")
        return {"recipe": {n: v for n, v in self.recipe_.facts().items() if n != "seed"} if known else None}


def recipe_of(study: Study) -> Recipe:
    """How the study's model was trained, as far as it says so.

    Args:
        study: with or without a trajectory.

    Returns:
        The recipe of its trajectory, or ``DEFAULT`` with the study's weight decay.
    """
    found = study.trajectory.recipe if study.trajectory is not None else None
    if found is not None and found.epochs > 0 and found.batch_size > 1 and found.learning_rate > 0:
        return found
    return Recipe(**(DEFAULT.facts() | {"weight_decay": study.weight_decay}))


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    """Rows of 0 and 1 [N, K], in the type of the numbers ``like`` [N, K]."""
    return torch.nn.functional.one_hot(labels, like.shape[1]).to(like)
