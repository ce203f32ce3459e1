"""What becomes of the explained images when the images that an estimator ranks first are left out, by retraining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from influence_core.applications.bootstrap import Interval
from influence_core.errors import InvalidInput
from influence_core.evaluation.agreement import SIDES, Side
from influence_core.evaluation.retraining import Retrain, retrain_subsets
from influence_core.scores import Scores
from influence_core.store import Store
from influence_core.study import Study


@dataclass(frozen=True, eq=False)
class TopRemoval:
    """Loss of the explained images without a set of training images, against a random set of the same size.

    Attributes:
        removed: ids of the training images that were left out, int64.
        change: loss without them minus loss without as many random ones, in nats, float64 [S, M]: a row for each seed,
            whose two models begin with the same weights, a column for each test image.
    """

    removed: Tensor
    change: Tensor

    @property
    def value(self) -> float:
        """Mean over seeds and test images."""
        return float(self.change.mean())

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the mean over these test images, of Student's t over seeds; ``None`` of a single seed.

        A seed draws the weights, the batches and the random set. That there could be other test images is not in it.
        """
        seeds = len(self.change)
        if seeds < 2:
            return None
        from scipy.stats import t

        means = self.change.mean(1)
        half = float(t.ppf(0.975, seeds - 1)) * float(means.std(correction=1)) / seeds**0.5
        return Interval(self.value - half, self.value + half)


def top_sets(scores: Scores, count: int) -> dict[Side, Tensor]:
    """The images with the most influence on the explained images together: their summed influence is largest, or least.

    Args:
        scores: influence [N, M].
        count: images on each side.

    Returns:
        Side -> ids, the most extreme first; equal ones in their order.
    """
    total = scores.values.double().sum(1)
    return {
        side: scores.train_ids[torch.sort(total, descending=side == "helpful", stable=True).indices[:count]]
        for side in SIDES
    }


def removed_count(share: float, size: int) -> int:
    """How many images a share is.

    Args:
        share: of the training images.
        size: N.

    Returns:
        At least 1.

    Raises:
        InvalidInput: if the share is not above 0 and at most a half.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 0.5:
        raise InvalidInput(f"removal is {share!r}; it is the share of the training images to leave out, such as 0.01")
    return max(1, round(share * size))


def removals(
    study: Study,
    scores: Mapping[str, Scores],
    count: int,
    test_ids: Tensor,
    retrain: Retrain | str,
    seeds: Sequence[int],
    *,
    store: Store | None = None,
    runner: Literal["local", "job"] = "local",
) -> dict[tuple[str, Side], TopRemoval]:
    """Train without the images that each estimator ranks first, and without random ones, with the same seeds.

    Estimators that name the same set share its trainings. A random set is drawn anew for each seed.

    Args:
        study: whose training images and recipe are used.
        scores: name -> influence on the explained images.
        count: images to leave out.
        test_ids: the explained images.
        retrain: trains one model, or "recipe".
        seeds: for each, a training without each set and one without a random one.
        store: where finished trainings are kept; see ``retrain_subsets``.
        runner: "local" or "job"; likewise.

    Returns:
        (Name, side) -> what it did.
    """
    size = len(study.train)
    sets = {(name, side): ids for name, given in scores.items() for side, ids in top_sets(given, count).items()}
    same = {key: tuple(ids.sort().values.tolist()) for key, ids in sets.items()}
    places = {ids: place for place, ids in enumerate(dict.fromkeys(same.values()), start=1)}  # after the random one
    kept = torch.ones(1 + len(places), size, dtype=torch.bool)
    for without, place in places.items():
        kept[place, list(without)] = False
    changes = []
    for seed in seeds:
        masks = kept.clone()
        masks[0, torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count]] = False
        losses = retrain_subsets(study, retrain, masks, test_ids, (seed,), store=store, runner=runner).losses
        changes.append(losses - losses[0])
    change = torch.stack(changes)  # [S, masks, M]
    return {key: TopRemoval(ids, change[:, places[same[key]]]) for key, ids in sets.items()}
