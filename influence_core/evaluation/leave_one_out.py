"""Leave-one-out: what influence means, by training anew without each image."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from influence_core.evaluation.retraining import Retrain, chosen_ids, retrain_subsets, retrained_losses
from influence_core.pieces import parts
from influence_core.progress import track
from influence_core.scores import Scores
from influence_core.store import Store
from influence_core.study import Study


def leave_one_out(
    study: Study,
    train_ids: Sequence[int] | Tensor | None,
    test_ids: Sequence[int] | Tensor | None,
    retrain: Retrain | str,
    seeds: Sequence[int] = (0,),
    *,
    store: Store | None = None,
    runner: Literal["local", "job"] = "local",
) -> Scores:
    r"""Change of test losses when a training image is left out and the model is trained anew.

    .. math:: h(z, z') = \ell(z', \theta_{-z}) - \ell(z', \theta), \qquad \text{both trained with the same seeds.}

    The model with all images is trained anew as well, so that nothing but the image differs. Unless training is
    deterministic and convex, the effect of one image is small beside that of a seed: average over many, or remove
    groups (see ``lds`` and ``group_effects``).

    A recipe takes the mean loss over the N - 1 images that are left, beside the same weight decay, where influence
    keeps the divisor N: a small common change, which can turn the sign of small effects. ``retrain`` may keep the
    divisor instead, with a weight decay of N / (N - 1) times that of the study.

    Args:
        study: whose training images and recipe are used.
        train_ids: the images to leave out, one at a time; ``None`` for all.
        test_ids: the images whose losses are looked at; ``None`` for all.
        retrain: ``retrain(study, kept ids, seed)`` trains one model; or its name ``module:function``, or "recipe" for
            that of the study.
        seeds: one model each; the losses are averaged.
        store: where finished trainings are kept; see ``retrain_subsets``.
        runner: "local" or "job"; likewise.

    Returns:
        Influence in nats [n, M]; positive: helpful.
    """
    left_out = chosen_ids(train_ids, len(study.train), "train")
    test = chosen_ids(test_ids, len(study.test), "test")
    everything = torch.arange(len(study.train))
    begun = time.perf_counter()
    if store is not None or runner == "job" or isinstance(retrain, str):
        masks = torch.ones(1 + len(left_out), len(everything), dtype=torch.bool)
        masks[torch.arange(1, len(masks)), left_out] = False
        losses = retrain_subsets(study, retrain, masks, test, seeds, store=store, runner=runner).losses
        values = losses[1:] - losses[0]
    else:
        with parts("everything"):
            before = retrained_losses(study, retrain, everything, test, seeds)
        rows = []
        for number, i in enumerate(track(left_out.tolist(), "leave-one-out: retraining")):
            with parts(f"{number}-without-{i}"):
                rows.append(retrained_losses(study, retrain, everything[everything != i], test, seeds) - before)
        values = torch.stack(rows)
    return Scores(
        values=values,
        train_ids=left_out,
        kind="influence",
        scale="nats",
        test_ids=test,
        meta={
            "estimator": "leave_one_out",
            "parameters": {"seeds": list(seeds)},
            "study": study.fingerprint,
            "seconds": time.perf_counter() - begun,
            "residual": None,
            "retrained": True,
        },
        train=study.train,
        test=study.test,
    )
