"""The loop closed in one call: mistakes, the images behind them, their labels, a mended model, and what that gained."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from influence_core.applications.detection import detect
from influence_core.applications.labelling import Labelling
from influence_core.applications.mending_report import ARMS, Mending
from influence_core.applications.relabelling import decided, relabel
from influence_core.applications.trainings import Outcome, outcomes
from influence_core.applications.trusted_step import edited_as_far
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators import Estimator
from influence_core.estimators.changes import checked_ids, data_change
from influence_core.progress import track
from influence_core.scores import Scores
from influence_core.store import Store
from influence_core.store.retrainings import RECIPE, Retrain
from influence_core.store.training import kept_weights
from influence_core.study import Study

Control = Literal["random", "checked", "same", "clean"]


def mend(
    study: Study,
    estimator: Estimator | None = None,
    decisions: pd.DataFrame | str | Path | None = None,
    *,
    threshold: float | None = None,
    budget: int | None = None,
    among: Literal["all", "harmful"] = "all",
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
        estimator: fitted on ``study``; not needed where decisions are given and the model is trained again.
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
        store: where each finished training is kept, so that what is broken off goes on.

    Returns:
        The report: gains with intervals, what was changed, and the study with the mended labels and model.

    Raises:
        InvalidInput: if nothing says what to do, too much does, or no label changes.
        NotSupported: if the estimator or the study does not give what is asked for.
    """
    begun = time.perf_counter()
    study.need_classes("mending")
    _check(estimator, decisions, threshold, budget, among, by)
    harm = None if estimator is None else _harm(study, estimator, test)
    if among == "harmful" and harm is None:
        assert estimator is not None
        if "influence" not in estimator.gives():
            raise estimator.lacks("influence")
        raise InvalidInput("there is no mistake whose harmful images could be mended: take among='all', or test= ids")
    facts: dict[str, Any] = {"mistakes": len(study.misclassified()), "among": among, "by": by, "threshold": None}
    facts["estimator"] = None if estimator is None else estimator.name
    if harm is not None:
        facts["harmful"] = int((harm > 0).sum())
    scores = None
    if decisions is not None:
        mended = Labelling(*decided(study.train, decisions))
        facts["source"] = "decisions"
    else:
        assert estimator is not None
        scores = estimator.mislabel_scores()
        mended, found = _suggested(study, estimator, scores, threshold, budget, harm if among == "harmful" else None)
        facts |= {"source": "suggestions", **found}
    if not len(mended.touched(study.train)):
        raise InvalidInput(_nothing(decisions is not None))
    arms = _arms(study, mended, controls)
    if by == "edit":
        assert estimator is not None
        found_outcomes, weights = _edited(study, estimator, arms, seeds)
    else:
        sets = {name: _data_of(study, arm) for name, arm in arms.items()}
        found_outcomes, kept = outcomes(
            study, sets, seeds, retrain=retrain, store=store, keep=("mended",), title="mending: training again"
        )
        weights = dict(kept["mended"].weights)
    facts |= {"seconds": time.perf_counter() - begun, "study_name": study.name}
    return Mending(
        outcomes=found_outcomes,
        changes={name: _counts(study, arm, seeds) for name, arm in arms.items()},
        seeds=[int(seed) for seed in seeds],
        images=_images(study, mended, scores, harm),
        labels=mended.labels,
        keep=mended.keep,
        fingerprint=study.fingerprint,
        facts=facts,
        weights=weights,
        original=study,
    )


Arm = Callable[[int], Labelling]


def _check(
    estimator: Estimator | None, decisions: Any, threshold: float | None, budget: int | None, among: str, by: str
) -> None:
    given = [n for n, v in (("decisions", decisions), ("threshold", threshold), ("budget", budget)) if v is not None]
    if len(given) > 1:
        raise InvalidInput(f"{' and '.join(given)} are given: say in one way which labels to mend")
    if among not in ("all", "harmful") or by not in ("retraining", "edit"):
        raise InvalidInput(f"among={among!r}, by={by!r}: choose all or harmful, retraining or edit")
    if estimator is None and (decisions is None or among == "harmful" or by == "edit"):
        raise InvalidInput(
            "an estimator is needed, fitted on the study: mend(study, ic.estimators.get('ekfac').fit(study)); without "
            "one, give a reviewed table of relabel, decisions=, and let the model be trained again"
        )
    if by == "edit" and estimator is not None and "parameter_change" not in estimator.gives():
        raise estimator.lacks("parameter_change")


def _nothing(reviewed: bool) -> str:
    if reviewed:
        return "no label changes: no row of the table says relabel or exclude in the column decision"
    return "no label changes: every suggestion is the given label; lower the threshold, or raise the budget"


def _harm(study: Study, estimator: Estimator, test: Sequence[int] | Tensor | None) -> Tensor | None:
    """How much each training image harms the mistakes, all together: minus its influence on them, float64 [N]."""
    if "influence" not in estimator.gives() or (test is not None and not len(test)):
        return None
    wrong = study.misclassified() if test is None else checked_ids(test, len(study.test), "test")
    if not len(wrong):
        return None
    return -estimator.influence(wrong).values.double().sum(1)


def _suggested(
    study: Study,
    estimator: Estimator,
    scores: Scores,
    threshold: float | None,
    budget: int | None,
    harm: Tensor | None,
) -> tuple[Labelling, dict[str, Any]]:
    """The suggestions for the most suspicious images, of those that do harm where it is given; and where the cut is."""
    found = detect(study, scores, threshold)
    if harm is not None and bool((harm > 0).any()):
        found = found.within((harm > 0).nonzero().flatten())
    found = found if budget is None else found.budget(budget)
    table = relabel(study, estimator, found.threshold, scores)
    if harm is not None:
        table["is_label_issue"] &= (harm > 0)[table["index"].to_list()].numpy()
    facts = {"threshold": found.threshold, "suspicious": int(table["is_label_issue"].sum())}
    return Labelling(*decided(study.train, table, "flagged")), facts


def _arms(study: Study, mended: Labelling, controls: Sequence[Control] | None) -> dict[str, Arm]:
    """Labelling of each seed, by name."""
    train, classes, known = study.train, study.num_classes, study.train.true_labels is not None
    wanted = controls if controls is not None else (("random", "checked", "same", "clean") if known else ("random",))
    unknown = [name for name in wanted if name not in ARMS or name in ("given", "mended")]
    if unknown:
        raise InvalidInput(f"there is no control {unknown[0]!r}; choose of random, checked, same and clean")
    if not known and set(wanted) - {"random"}:
        raise NotSupported(
            "the controls checked, same and clean need true labels: LabelledDataset(..., true_labels=...); without "
            "them, controls=['random']"
        )
    given, touched = Labelling.given(train), mended.touched(train)
    found: dict[str, Arm] = {
        "given": lambda _: given,
        "mended": lambda _: mended,
        "random": lambda seed: mended.at_random(train, classes, seed),
        "checked": lambda seed: mended.checked_at_random(train, seed),
        "same": lambda _: given.clean(train, touched),
        "clean": lambda _: given.clean(train),
    }
    return {name: arm for name, arm in found.items() if name in ("given", "mended", *wanted)}


def _data_of(study: Study, arm: Arm) -> Callable[[int], Any]:
    return lambda seed: arm(seed).data(study.train)


def _counts(study: Study, arm: Arm, seeds: Sequence[int]) -> list[int]:
    """Images relabelled and left out, with the first seed."""
    first = arm(int(seeds[0]))
    return [len(first.relabelled(study.train)), len(first.excluded())]


def _edited(
    study: Study, estimator: Estimator, arms: dict[str, Arm], seeds: Sequence[int]
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
            edited = _edit(study, estimator, labelling)
            if name == "mended":
                weights = kept_weights(edited.model, None)
            right[name].append(edited.predictions("test") == study.test.labels)
            losses[name].append(edited.losses("test").double())
    return {name: Outcome(torch.stack(right[name]), torch.stack(losses[name])) for name in arms}, weights


def _edit(study: Study, estimator: Estimator, labelling: Labelling) -> Study:
    ids = labelling.relabelled(study.train)
    new = dict(zip(ids.tolist(), labelling.labels[ids].tolist(), strict=True))
    if not new and bool(labelling.keep.all()):
        return study
    asked: dict[str, Any] = {"remove": labelling.excluded(), "relabel": new}
    return edited_as_far(study, estimator, data_change(study.train, study.classes, **asked), **asked)[0]


def _images(study: Study, mended: Labelling, scores: Any, harm: Tensor | None) -> pd.DataFrame:
    """A row for each image that changes."""
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
