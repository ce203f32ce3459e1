"""What a mend decides before anything is trained: which labels change, and what they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from torch import Tensor

from influence_core.applications.detection import detect
from influence_core.applications.labelling import Labelling
from influence_core.applications.mending_report import ARMS
from influence_core.applications.relabelling import decided, relabel
from influence_core.applications.trainings import Wanted, wanted
from influence_core.errors import InvalidInput, NotSupported
from influence_core.estimators import Estimator
from influence_core.estimators.changes import checked_ids
from influence_core.estimators.together import EstimatorLike, fitted_on
from influence_core.scores import Scores
from influence_core.study import Study

Control = Literal["random", "checked", "same", "clean"]
Among = Literal["all", "harmful"]

Arm = Callable[[int], Labelling]
"""Labels by the seed."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What is mended, and beside what.

    Attributes:
        mended: the labels.
        arms: the labels of each seed, by name; those of ``ARMS`` that are asked for.
        facts: of the report.
        scores: mislabel scores, where they decided.
        harm: of each training image to the mistakes, float64 [N], where it is known.
    """

    mended: Labelling
    arms: Mapping[str, Arm]
    facts: Mapping[str, Any]
    scores: Scores | None
    harm: Tensor | None

    def wanted(self, study: Study, seeds: Sequence[int]) -> list[Wanted]:
        """The trainings that measure the gain, seed after seed; the mended model of the first is kept.

        Args:
            study: whose training set it is.
            seeds: one training each for every arm.

        Returns:
            The trainings.
        """
        data = cache(lambda labelling: labelling.data(study.train))  # labels that no seed draws are one set
        sets = {name: (lambda seed, arm=arm: data(arm(seed))) for name, arm in self.arms.items()}
        return wanted(sets, seeds, keep=("mended",))


def plan(
    study: Study,
    estimator: EstimatorLike | None,
    decisions: pd.DataFrame | str | Path | None,
    threshold: float | None,
    budget: int | None,
    among: Among,
    test: Sequence[int] | Tensor | None,
    by: str,
    controls: Sequence[Control] | None,
) -> Plan:
    """Decide; see ``mend`` for the arguments.

    Returns:
        What is mended, and beside what.

    Raises:
        InvalidInput: if nothing says what to do, too much does, or no label changes.
        NotSupported: if the estimator or the study does not give what is asked for.
    """
    study.need_classes("mending")
    estimator = None if estimator is None else fitted_on(study, estimator)
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
    return Plan(mended, _arms(study, mended, controls), facts, scores, harm)


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
            "an estimator is needed, such as mend(study, 'labelcontrast'); without one, give a reviewed table of "
            "relabel, decisions=, and let the model be trained again"
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
    given = Labelling.given(train)
    same, clean = (given.clean(train, mended.touched(train)), given.clean(train)) if known else (given, given)
    found: dict[str, Arm] = {
        "given": lambda _: given,
        "mended": lambda _: mended,
        "random": lambda seed: mended.at_random(train, classes, seed),
        "checked": lambda seed: mended.checked_at_random(train, seed),
        "same": lambda _: same,
        "clean": lambda _: clean,
    }
    return {name: arm for name, arm in found.items() if name in ("given", "mended", *wanted)}
