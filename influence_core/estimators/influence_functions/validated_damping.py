"""Which damping predicts retraining best, judged on the validation set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from influence_core.curvature.vectors import Vectors
from influence_core.errors import InvalidInput
from influence_core.estimators.detectors.from_scratch import recipe_of
from influence_core.gradients import inner_products
from influence_core.models import dataset_losses
from influence_core.pieces import piece
from influence_core.progress import track
from influence_core.study import Study
from influence_core.training import train_fresh

DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""What is tried, as multiples of the mean diagonal of the curvature."""

RETRAININGS = 12
"""Models that are trained on random halves of the training set."""


@dataclass(frozen=True)
class Agreement:
    """How well each damping predicts what retraining did to validation losses.

    Attributes:
        dampings: that were tried, relative.
        values: mean rank correlation over validation images, -1 to 1.
    """

    dampings: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def best(self) -> float:
        """The damping with the best agreement, the largest of equals."""
        return self.dampings[max(range(len(self.values)), key=lambda i: (self.values[i], self.dampings[i]))]


def left_out(study: Study, seed: int = 0, count: int = RETRAININGS) -> list[Tensor]:
    """Random halves of the training set that are left out, ids in ascending order.

    Args:
        study: whose training set it is.
        seed: of the draw.
        count: how many.

    Returns:
        int64 tensors.

    Raises:
        InvalidInput: if there are fewer than 4 training images.
    """
    size = len(study.train)
    if size < 4:
        raise InvalidInput(f"{size} training images have no halves to train on: give damping as a number")
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(size, generator=generator)[: size // 2].sort().values for _ in range(count)]


def retrained_losses(study: Study, without: Sequence[Tensor], seed: int = 0) -> Tensor:
    """Validation losses of models trained on what is left, from new weights and by the study's recipe.

    Args:
        study: with a validation set.
        without: ids that are left out, for each model.
        seed: of the weights and batches, the same for all, so that what is left out makes the difference.

    Returns:
        float64 ``[models, V]``.
    """
    recipe, clean = recipe_of(study), study.split("validation")

    def losses(gone: Tensor) -> dict[str, Tensor]:
        stays = torch.ones(len(study.train), dtype=torch.bool)
        stays[gone] = False
        model = train_fresh(study.model, study.train.subset(stays), recipe, seed=seed, loss=study.loss)
        return {"losses": dataset_losses(model, study.loss, clean).double().cpu()}

    numbered = enumerate(track(list(without), "Damping: retraining on halves of the training set"))
    return torch.stack([piece(f"half-{number}", partial(losses, gone))["losses"] for number, gone in numbered])


def agreement(
    study: Study,
    model: nn.Module,
    moved: Callable[[float], Vectors],
    losses: Tensor,
    dampings: Sequence[float] = DAMPINGS,
) -> Agreement:
    """Rank correlation of predicted and real validation losses, for each damping.

    Args:
        study: with a validation set.
        model: where validation gradients are taken.
        moved: damping -> predicted changes of the weights, a row for each retraining.
        losses: of the retrainings, ``[models, V]``.
        dampings: to try.

    Returns:
        The agreement.
    """
    found, clean, real = [], study.split("validation"), ranks(losses)
    for damping in track(list(dampings), "Damping: predictions"):
        changes: Mapping[str, Tensor] = moved(damping)
        predicted = ranks(inner_products(model, study.loss, clean, changes).T.double().cpu())
        found.append(float(correlations(predicted, real).mean()))
    return Agreement(tuple(dampings), tuple(found))


def ranks(columns: Tensor) -> Tensor:
    """Ranks within each column, float64, centred; equal values in their order."""
    found = columns.argsort(dim=0, stable=True).argsort(dim=0, stable=True).double()
    return found - found.mean(0)


def correlations(one: Tensor, two: Tensor) -> Tensor:
    """Correlation of each column with its counterpart; both are centred."""
    scale = (one.square().sum(0) * two.square().sum(0)).sqrt()
    return (one * two).sum(0) / scale.clamp_min(torch.finfo(scale.dtype).tiny)
