"""Models trained anew on parts of the training set: the dear half of every evaluation, so computed once and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from influence_core.errors import InvalidInput, StaleResult
from influence_core.models import check_finite, dataset_losses, load_tensors, read_facts, save_tensors
from influence_core.pieces import parts, piece
from influence_core.progress import track
from influence_core.store import Losses, Retrainings, Store
from influence_core.store.retrainings import RECIPE
from influence_core.study import Study

Retrain = Callable[[Study, Tensor, int], nn.Module]
"""``retrain(study, kept, seed)``: a new model in eval mode, trained on the training images ``kept`` (ids, int64) with
the recipe of the study; ``seed`` is that of its weights and batches."""


@dataclass(frozen=True, eq=False)
class Retrained:
    """Losses of test images after training on subsets of the training set; any number of estimators can share them.

    Attributes:
        kept: which training images each subset keeps, bool [S, N].
        losses: of the test images, mean over the seeds, float64 [S, M].
        test_ids: the test image of each column, int64 [M].
        study: fingerprint of the study.
        meta: seeds and seconds.

    Raises:
        InvalidInput: if shapes do not fit, or a loss is NaN or infinite.
    """

    kept: Tensor
    losses: Tensor
    test_ids: Tensor
    study: str
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check shapes and numbers."""
        shape = (len(self.kept), len(self.test_ids))
        if self.kept.ndim != 2 or self.kept.dtype != torch.bool or tuple(self.losses.shape) != shape:
            raise InvalidInput(
                f"kept is {self.kept.dtype} {tuple(self.kept.shape)} and losses {tuple(self.losses.shape)} for "
                f"{len(self.test_ids)} test images; expected bool [subsets, training images] and [subsets, test images]"
            )
        check_finite(self.losses, "the losses of the retrained models")

    def __repr__(self) -> str:
        """Sizes."""
        subsets, size = self.kept.shape
        share = float(self.kept.double().mean())
        return (
            f"Retrained({subsets} subsets of {share:.0%} of {size} training images, {len(self.test_ids)} test images)"
        )

    def check(self, study: Study) -> None:
        """Refuse another study.

        Args:
            study: that scores are about.

        Raises:
            StaleResult: if the models were trained for another study.
        """
        if self.study != study.fingerprint:
            raise StaleResult(
                f"these {len(self.kept)} retrainings belong to another study than {study.name!r}: call "
                "ic.evaluation.retrain_subsets(study, retrain) again"
            )

    def save(self, path: str | Path) -> None:
        """Write everything as one safetensors file.

        Args:
            path: file to write.
        """
        tensors = {"kept": self.kept, "losses": self.losses, "test_ids": self.test_ids}
        save_tensors(path, tensors, {"retrained": json.dumps({"study": self.study, "meta": dict(self.meta)})})

    @classmethod
    def load(cls, path: str | Path, study: Study | None = None) -> Retrained:
        """Read what ``save`` wrote.

        Args:
            path: the file.
            study: to check that it is the right one.

        Returns:
            The losses.

        Raises:
            InvalidInput: if the file holds no retrainings.
        """
        tensors, facts = load_tensors(path), read_facts(path, "retrained")
        if facts is None or not {"kept", "losses", "test_ids"} <= tensors.keys():
            raise InvalidInput(f"{path} holds no retrainings; write them with Retrained.save")
        found = cls(tensors["kept"], tensors["losses"], tensors["test_ids"], facts["study"], facts["meta"])
        if study is not None:
            found.check(study)
        return found


def draw_subsets(size: int, count: int = 50, share: float = 0.5, seed: int = 0) -> Tensor:
    """Random subsets of equal size.

    Args:
        size: number of training images N.
        count: number of subsets S.
        share: of the images that each keeps, between 0 and 1.
        seed: of the draw.

    Returns:
        Which images each subset keeps, bool [S, N].

    Raises:
        InvalidInput: if a subset would be empty or everything, or there is none.
    """
    kept = round(share * size)
    if count < 1 or not 0 < kept < size:
        raise InvalidInput(
            f"count={count}, share={share} of {size} images: at least one subset is needed, and each has to leave some "
            "images out and some in"
        )
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, size, dtype=torch.bool)
    for mask in masks:
        mask[torch.randperm(size, generator=generator)[:kept]] = True
    return masks


def retrain_subsets(
    study: Study,
    retrain: Retrain | str = RECIPE,
    kept: Tensor | None = None,
    test: Sequence[int] | Tensor | None = None,
    seeds: Sequence[int] = (0,),
    *,
    store: Store | None = None,
    runner: Literal["local", "job"] = "local",
) -> Retrained:
    """Train a model on each subset and keep the losses of the test images.

    Args:
        study: whose training images and recipe are used.
        retrain: trains one model: a function, its name ``module:function``, or "recipe" for that of the study.
        kept: which images each subset keeps, bool [S, N]; 50 random halves by default.
        test: ids of test images; all by default.
        seeds: one model each per subset; their losses are averaged.
        store: where every finished training is kept, so that what is broken off goes on, and what was trained is
            found; the function then needs a name by which another process finds it.
        runner: "local" trains in this process; "job" in one of its own, which goes on after this one.

    Returns:
        The losses, for ``lds``.

    Raises:
        InvalidInput: if a mask, a seed or an id does not fit the study.
        NotSupported: if trainings are to be kept, and the function has no such name.
    """
    masks = draw_subsets(len(study.train)) if kept is None else kept
    if masks.ndim != 2 or masks.shape[1] != len(study.train) or masks.dtype != torch.bool:
        raise InvalidInput(
            f"kept is {masks.dtype} {tuple(masks.shape)}; expected bool [subsets, {len(study.train)} training images]"
        )
    test_ids = chosen_ids(test, len(study.test), "test")
    if store is not None or runner == "job":
        task = Retrainings.of(study, retrain, masks, test_ids.tolist(), some_seeds(seeds))
        found = _kept(task, store, runner)
        return Retrained(masks.clone(), found.values.clone(), test_ids, study.fingerprint, dict(found.meta))
    if isinstance(retrain, str):
        retrain = Retrainings.of(study, retrain, masks, (), ()).function()
    begun = time.perf_counter()
    losses = []
    for number, mask in enumerate(track(list(masks), "retraining on subsets")):
        with parts(f"subset-{number}"):
            losses.append(retrained_losses(study, retrain, mask.nonzero().flatten(), test_ids, seeds))
    meta = {"seeds": list(seeds), "seconds": time.perf_counter() - begun}
    return Retrained(masks.clone(), torch.stack(losses), test_ids, study.fingerprint, meta)


def retrained_losses(study: Study, retrain: Retrain, kept: Tensor, test_ids: Tensor, seeds: Sequence[int]) -> Tensor:
    """Losses of test images after training on some of the training images; the model of each seed is a piece.

    Args:
        study: whose training images and recipe are used.
        retrain: trains one model.
        kept: ids of the training images to train on.
        test_ids: ids of the test images.
        seeds: one model each.

    Returns:
        Mean over the seeds, float64 [M].

    Raises:
        InvalidInput: if there is no seed.
    """
    some_seeds(seeds)
    total = torch.zeros(len(test_ids), dtype=torch.float64)

    def losses(seed: int) -> dict[str, Tensor]:
        model = retrain(study, kept, seed).eval()
        return {"losses": dataset_losses(model, study.loss, study.test, test_ids).double()}

    for number, seed in enumerate(seeds):
        total += piece(f"model-{number}-seed-{seed}", partial(losses, seed))["losses"]
    return total / len(seeds)


def some_seeds(seeds: Sequence[int]) -> Sequence[int]:
    """Seeds, of which there has to be one.

    Args:
        seeds: one model each.

    Returns:
        The same.

    Raises:
        InvalidInput: if there is none.
    """
    if not len(seeds):
        raise InvalidInput("seeds is empty; one model is trained for each, so give at least one, such as (0,)")
    return seeds


def _kept(task: Retrainings, store: Store | None, runner: str) -> Losses:
    """Trainings that are kept, here or by a job."""
    store = Store() if store is None else store
    if runner == "local":
        found: Losses = store.compute(task)
        return found
    from influence_core import jobs

    waited: Any = jobs.submit_task(task, store=store).wait()
    return cast(Losses, waited)


def chosen_ids(ids: Sequence[int] | Tensor | None, size: int, what: str) -> Tensor:
    """Ids of images, checked.

    Args:
        ids: integers, or ``None`` for all.
        size: number of images there are.
        what: "train" or "test", for the message.

    Returns:
        int64 [n].

    Raises:
        InvalidInput: if there is no such image, or none is asked for.
    """
    chosen = torch.arange(size) if ids is None else torch.as_tensor(ids).flatten()
    if not chosen.numel() or chosen.is_floating_point() or chosen.dtype == torch.bool:
        raise InvalidInput(f"{what} ids are {chosen.dtype} with {chosen.numel()} values; give integers such as [3, 17]")
    bad = chosen[(chosen < 0) | (chosen >= size)]
    if bad.numel():
        raise InvalidInput(f"there is no {what} image {int(bad[0])}; ids go from 0 to {size - 1}")
    return chosen.to(torch.long)
