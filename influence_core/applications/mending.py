"""The loop closed in one call: mistakes, the images behind them, their labels, a mended model, and what that gained."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from influence_core.applications.labelling import Labelling
from influence_core.applications.mending_plan import Among, Arm, Control, Plan, plan
from influence_core.applications.mending_report import Mending
from influence_core.applications.trainings import Outcome, asked, outcomes
from influence_core.applications.trusted_step import edited_as_far
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators import Estimator
from influence_core.estimators.changes import data_change
from influence_core.estimators.together import EstimatorLike, fitted_on
from influence_core.progress import track
from influence_core.store import Store, Trainings
from influence_core.store.retrainings import RECIPE, Retrain
from influence_core.store.trained import kept_weights
from influence_core.study import Study

PURPOSE = "Apply and measure"
"""What the trainings are for, as a list of jobs has it."""


def mend(
    study: Study,
    estimator: EstimatorLike | None = None,
    decisions: pd.DataFrame | str | Path | None = None,
    *,
    threshold: float | None = None,
    budget: int | None = None,
    among: Among = "all",
    test: Sequence[int] | Tensor | None = None,
    by: Literal["retraining", "edit"] = "retraining",
    controls: Sequence[Control] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    retrain: str | Retrain = RECIPE,
    store: Store | None = None,
) -> Mending:
    """Mend the labels behind a model's mistakes, train it again, and measure what that gained.

    The test images that the model gets wrong lead to the training images that harm them on balance, the estimator says
    which labels look wrong and which ones would be right, the model is trained again with them, and the gain in test
    accuracy is measured in pairs of test images and seeds (see ``paired``). Beside it stand as many images relabelled
    at random and, where the true labels are known, as many images checked at random, and clean labels of the same
    images and of all.

    Args:
        study: with labels that are classes.
        estimator: fitted on ``study``, or else fitted here; not needed where decisions are given and the model is
            trained again.
        decisions: a reviewed table of ``relabel``, or the path of its CSV; without one every suggestion above the
            threshold is taken, unless it is the given label.
        threshold: take the suggestions of mislabel scores above it; Otsu's by default.
        budget: take the suggestions for so many images, the most suspicious ones, instead; of the harmful ones where
            only these count.
        among: "all" training images, or only those that are "harmful" to the mistakes on balance. The test set then
            chooses images, and the gain on the same test set is too good.
        test: ids of the mistakes to look at; all of ``study.misclassified()`` by default, and none for ``()``, which
            saves the estimator the influence on them. Used where it gives influence.
        by: "retraining" trains the model again with every seed. "edit" changes the weights of the study's model, by as
            much of the estimator's ``parameter_change`` as ``trusted_step`` finds good; the seeds are those of the
            random controls alone.
        controls: of "random", "checked", "same" and "clean"; by default "random", and all where the truth is known.
        seeds: one model each for the given labels, the mended ones and every control.
        retrain: trains one model: "recipe", or ``retrain(study, kept, seed)``.
        store: where each finished training is kept, so that what is broken off goes on; a job trains with
            ``ic.jobs.submit_task(mending_trainings(...))``, of the same arguments.

    Returns:
        The report: gains with intervals, what was changed, and the study with the mended labels and model.

    Raises:
        InvalidInput: if nothing says what to do, too much does, or no label changes.
        NotSupported: if the estimator or the study does not give what is asked for.
    """
    begun = time.perf_counter()
    fitted = None if estimator is None else fitted_on(study, estimator)
    found = plan(study, fitted, decisions, threshold, budget, among, test, by, controls)
    if by == "edit":
        assert fitted is not None
        found_outcomes, weights = _edited(study, fitted, found.arms, seeds)
    else:
        these = found.wanted(study, seeds)
        found_outcomes, kept = outcomes(study, these, retrain=retrain, store=store, purpose=PURPOSE)
        weights = dict(kept["mended"].weights)
    facts = {**found.facts, "seconds": time.perf_counter() - begun, "study_name": study.name}
    return Mending(
        outcomes=found_outcomes,
        changes={name: _counts(study, arm, seeds) for name, arm in found.arms.items()},
        seeds=[int(seed) for seed in seeds],
        images=_images(study, found),
        labels=found.mended.labels,
        keep=found.mended.keep,
        fingerprint=study.fingerprint,
        facts=facts,
        weights=weights,
        original=study,
    )


def mending_trainings(
    study: Study,
    estimator: EstimatorLike | None = None,
    decisions: pd.DataFrame | str | Path | None = None,
    *,
    threshold: float | None = None,
    budget: int | None = None,
    among: Among = "all",
    test: Sequence[int] | Tensor | None = None,
    controls: Sequence[Control] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    retrain: str | Retrain = RECIPE,
) -> Trainings:
    """The trainings that ``mend`` needs, for a job: with a store that has them ``mend`` trains nothing.

    Args:
        study: as of ``mend``, and so are the others.
        estimator: likewise.
        decisions: likewise.
        threshold: likewise.
        budget: likewise.
        among: likewise.
        test: likewise.
        controls: likewise.
        seeds: likewise.
        retrain: "recipe", or a function that has a name.

    Returns:
        The task, for ``ic.jobs.submit_task`` or ``Store.compute``.

    Raises:
        InvalidInput: if nothing says what to do, too much does, or no label changes.
        NotSupported: if the estimator or the study does not give what is asked for.

    Example:
        >>> import influence_core as ic
        >>> study = ic.demo.digits()
        >>> loss = ic.estimators.Loss().fit(study)
        >>> mending_trainings(study, loss, budget=100, controls=["random"], seeds=[0, 1]).title
        'Apply and measure: 6 trainings of 1,000 images'
    """
    found = plan(study, estimator, decisions, threshold, budget, among, test, "retraining", controls)
    return asked(study, found.wanted(study, seeds), retrain, PURPOSE)


def _counts(study: Study, arm: Arm, seeds: Sequence[int]) -> list[int]:
    """Images relabelled and left out, with the first seed."""
    first = arm(int(seeds[0]))
    return [len(first.relabelled(study.train)), len(first.excluded())]


def _edited(
    study: Study, estimator: Estimator, arms: Mapping[str, Arm], seeds: Sequence[int]
) -> tuple[dict[str, Outcome], dict[str, Tensor]]:
    """The study's model with changed weights in place of models that are trained again."""
    if not len(seeds):
        raise InvalidInput("seeds is empty; random controls are drawn with them, so give at least one, such as (0,)")
    right: dict[str, list[Tensor]] = {name: [] for name in arms}
    losses: dict[str, list[Tensor]] = {name: [] for name in arms}
    weights: dict[str, Tensor] = {}
    for name, arm in track(list(arms.items()), "mending: editing the weights"):
        for seed in seeds:
            if right[name] and name not in ("random", "checked"):  # no draw: the same once more
                right[name].append(right[name][0])
                losses[name].append(losses[name][0])
                continue
            labelling = arm(int(seed))
            edited, step = _edit(study, estimator, labelling)
            if name == "mended":
                weights = kept_weights(edited.model, None)
                if step == 0:
                    raise NotSupported(
                        f"the training loss does not fall along the edit of {estimator.title}, so that it mends "
                        "nothing: take by='retraining', or another estimator"
                    )
            right[name].append(edited.predictions("test") == study.test.labels)
            losses[name].append(edited.losses("test").double())
    return {name: Outcome(torch.stack(right[name]), torch.stack(losses[name])) for name in arms}, weights


def _edit(study: Study, estimator: Estimator, labelling: Labelling) -> tuple[Study, float]:
    ids = labelling.relabelled(study.train)
    new = dict(zip(ids.tolist(), labelling.labels[ids].tolist(), strict=True))
    if not new and bool(labelling.keep.all()):
        return study, 1.0
    change: dict[str, Any] = {"remove": labelling.excluded(), "relabel": new}
    return edited_as_far(study, estimator, data_change(study.train, study.classes, **change), **change)


def _images(study: Study, found: Plan) -> pd.DataFrame:
    """A row for each image that changes."""
    mended, scores, harm = found.mended, found.scores, found.harm
    train, names = study.train, study.class_names
    ids = mended.touched(train).tolist()
    rows = [
        {
            "train_id": i,
            "action": "relabel" if bool(mended.keep[i]) else "exclude",
            "given_label": names[int(train.labels[i])],
            "new_label": names[int(mended.labels[i])] if bool(mended.keep[i]) else "",
            "true_label": "" if train.true_labels is None else names[int(train.true_labels[i])],
            "score": math.nan if scores is None else float(scores.values[i]),
            "harm": math.nan if harm is None else float(harm[i]),
        }
        for i in ids
    ]
    return pd.DataFrame(rows)
