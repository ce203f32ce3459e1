"""Leave-one-out: what influence means, by training anew without each image."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from influence_core.evaluation.retraining import Retrain, chosen_ids, retrained_losses
from influence_core.pieces import parts
from influence_core.progress import track
from influence_core.scores import Scores
from influence_core.study import Study


def leave_one_out(
    study: Study,
    train_ids: Sequence[int] | Tensor | None,
    test_ids: Sequence[int] | Tensor | None,
    retrain: Retrain,
    seeds: Sequence[int] = (0,),
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
        retrain: ``retrain(study, kept ids, seed)`` trains one model.
        seeds: one model each; the losses are averaged.

    Returns:
        Influence in nats [n, M]; positive: helpful.
    """
    left_out = chosen_ids(train_ids, len(study.train), "train")
    test = chosen_ids(test_ids, len(study.test), "test")
    everything = torch.arange(len(study.train))
    begun = time.perf_counter()
    with parts("everything"):
        before = retrained_losses(study, retrain, everything, test, seeds)
    rows = []
    for number, i in enumerate(track(left_out.tolist(), "leave-one-out: retraining")):
        with parts(f"{number}-without-{i}"):
            rows.append(retrained_losses(study, retrain, everything[everything != i], test, seeds) - before)
    return Scores(
        values=torch.stack(rows),
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
