"""Which estimator should be believed on this study? Everything that can be measured of them, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from influence_core.errors import InvalidInput, StaleResult
from influence_core.estimators import Estimator
from influence_core.estimators.together import estimator_of
from influence_core.evaluation import evidence
from influence_core.evaluation.candidates import REFUSALS, Candidate, said
from influence_core.evaluation.comparison import Comparison
from influence_core.evaluation.explained import explained_ids
from influence_core.evaluation.leave_one_out import leave_one_out as without_each
from influence_core.evaluation.naming import distinct
from influence_core.evaluation.retraining import Retrain, Retrained, draw_subsets, retrain_subsets
from influence_core.evaluation.sheet import Sheet
from influence_core.evaluation.top_removal import removals, removed_count
from influence_core.parameters import plain
from influence_core.progress import track
from influence_core.scores import Scores
from influence_core.store import Store
from influence_core.study import Study


def compare(
    study: Study,
    estimators: Sequence[str | type[Estimator] | Estimator],
    *,
    test: int | Sequence[int] | Tensor | None = None,
    k: int = 10,
    cost: bool = True,
    agreement: bool = True,
    detection: bool = True,
    retrained: Retrained | int | None = None,
    leave_one_out: Scores | Sequence[int] | int | None = None,
    removal: float | None = None,
    retrain: Retrain | str = "recipe",
    seeds: Sequence[int] = (0,),
    store: Store | None = None,
    runner: Literal["local", "job"] = "local",
    seed: int = 0,
) -> Comparison:
    """Compare estimators on one study: what they cost, whether they agree, and whether they are right.

    Estimators are fitted one after the other, so that each is charged all that it needs. What one does not give is an
    empty cell with its reason, and one that fails does not keep the others from their rows. Evidence that trains models
    anew is off by default; ``retrained`` and ``leave_one_out`` come back in the report, to be given to the next call.

    Args:
        study: to be explained; it is not changed.
        estimators: names, classes or objects, each object once; objects are fitted in place, unless they are fitted on
            this study.
        test: ids of the test images to explain. By default the misclassified ones, at most 20, evenly spread over all
            of them; of those in ``retrained`` where that is given; where none is wrong, those with the largest loss.
        k: of the top k that estimators are asked to agree on.
        cost: measured seconds and peak memory, and the seconds that ``expected_cost`` predicts.
        agreement: overlap of the top k and rank correlation between estimators; see ``ic.evaluation.agreement``.
        detection: areas under the curves of wrong labels found, where the true labels are known; see
            ``ic.applications.detect``.
        retrained: for linear datamodelling scores (see ``lds``): from ``retrain_subsets``, or the number of random
            halves to train on, 50 for sensible intervals. The losses of all test images are kept.
        leave_one_out: for the rank correlation with leave-one-out: scores from ``leave_one_out``, the ids of the
            training images to leave out, or how many random ones. The noise of a training is larger than the effect of
            one image unless training is convex: give several seeds, or prefer ``retrained``.
        removal: for training without the images that each estimator ranks first: their share of the training images,
            such as 0.01. Up to two trainings per estimator and seed, and one without random images for each seed.
        retrain: trains one model: a function, its name ``module:function``, or "recipe" for that of the study.
        seeds: one model each for every set of images that is trained on.
        store: where finished trainings are kept; see ``retrain_subsets``.
        runner: "local" trains in this process; "job" in one of its own, which goes on after this one.
        seed: of the random subsets, the random images left out, and the bootstraps.

    Returns:
        The report: ``.table``, ``.sentences()``, ``.figure()``, and what is behind them.

    Raises:
        InvalidInput: if there is no estimator, one comes twice, or an id or a number makes no sense.
        StaleResult: if ``retrained`` or ``leave_one_out`` belongs to another study.

    Example:
        >>> import influence_core as ic
        >>> report = ic.evaluation.compare(ic.demo.digits(), ["lastlayer", "random"], test=[475], cost=False)
        >>> report
        Comparison(2 estimators on 1 test images of 'Handwritten digits, 10% wrong labels': agreement, detection)
        >>> report.reason("random", "top_10_shared_percent")
        'Random (control) gives no influence: random numbers are a control for detection alone'
    """
    candidates = _candidates(estimators)
    count = _checked(study, k, retrained, removal, seeds)
    given = [one for one in (retrained, leave_one_out) if isinstance(one, (Retrained, Scores))]
    test_ids = explained_ids(study, test, retrained.test_ids if isinstance(retrained, Retrained) else None)
    for trained in given:
        _check_given(study, trained, test_ids)
    absent = {"detection": why} if detection and (why := evidence.without_truth(study)) is not None else {}
    kept: _Kept = {"store": store, "runner": runner}
    judge, alone = retrained, leave_one_out
    if judge is not None and not isinstance(judge, Retrained):
        judge = retrain_subsets(study, retrain, draw_subsets(len(study.train), judge, seed=seed), None, seeds, **kept)
    if alone is not None and not isinstance(alone, Scores):
        alone = without_each(study, _some_ids(study, alone, seed), test_ids, retrain, seeds, **kept)

    whats = ("influence", "mislabel_scores") if detection and not absent else ("influence",)
    if cost:
        for one in candidates:
            one.foresee(study, whats, len(test_ids))
    for one in track(candidates, "comparing estimators"):
        one.ask(study, whats, test_ids)

    sheet = Sheet([one.name for one in candidates])
    found: dict[str, Any] = {"retrained": judge, "leave_one_out": alone}
    if cost:
        evidence.cost(sheet, candidates, whats)
    if judge is not None:
        found["lds"] = evidence.by_subsets(study, sheet, candidates, judge, test_ids, seed)
    if alone is not None:
        found["left_out"] = evidence.by_leaving_out(sheet, candidates, alone, test_ids, seed)
    if "mislabel_scores" in whats:
        found["detections"] = evidence.by_labels(study, sheet, candidates, seed)
    if count is not None:
        try:
            found["removals"] = evidence.by_removal(
                sheet, candidates, lambda scores: removals(study, scores, count, test_ids, retrain, seeds, **kept)
            )
        except REFUSALS as error:
            absent["removal"] = said(error)
    if agreement:
        found["shared"], found["correlation"] = evidence.shared(sheet, candidates, test_ids, k)
    asked = {
        "cost": cost,
        "agreement": agreement,
        "lds": judge is not None,
        "leave_one_out": alone is not None,
        "detection": detection,
        "removal": count is not None,
    }
    return Comparison(
        study.name,
        test_ids,
        k,
        tuple(kind for kind, wanted in asked.items() if wanted and kind not in absent),
        sheet.table(),
        sheet.reasons,
        {one.name: one.estimator for one in candidates},
        {one.name: one.answers["influence"] for one in candidates if "influence" in one.answers},
        absent=absent,
        **found,
    )


class _Kept(TypedDict):
    store: Store | None
    runner: Literal["local", "job"]


def _candidates(given: Sequence[str | type[Estimator] | Estimator]) -> list[Candidate]:
    """One for each, under a name of its own."""
    if isinstance(given, (str, Estimator)) or not len(given):
        raise InvalidInput(f"estimators is {given!r}; give some, such as ['ekfac', 'trak', 'lastlayer']")
    made = [estimator_of(one) for one in given]
    if len({id(one) for one in made}) < len(made):
        raise InvalidInput("an estimator comes twice: give each object once")
    names = distinct([(one.name, plain(one.get_params())) for one in made])
    return [Candidate(name, one) for name, one in zip(names, made, strict=True)]


def _checked(
    study: Study, k: int, retrained: Retrained | int | None, removal: float | None, seeds: Sequence[int]
) -> int | None:
    """How many images to remove, once the numbers make sense."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InvalidInput(f"k is {k!r}; it is how many images each estimator names, so 1 or more")
    if not (retrained is None or isinstance(retrained, Retrained)) and (
        isinstance(retrained, bool) or not isinstance(retrained, int) or retrained < 3
    ):
        raise InvalidInput(f"retrained is {retrained!r}; a rank correlation takes 3 subsets, 50 are sensible")
    if not len(seeds):
        raise InvalidInput("seeds is empty; one model is trained for each, so give at least one, such as (0,)")
    return None if removal is None else removed_count(removal, len(study.train))


def _check_given(study: Study, one: Retrained | Scores, test_ids: Tensor) -> None:
    """Refuse trainings of another study, or of other test images alone."""
    if isinstance(one, Retrained):
        one.check(study)
    elif one.kind != "influence" or one.test_ids is None:
        raise InvalidInput(f"leave_one_out is {one.kind} scores; give those of ic.evaluation.leave_one_out")
    elif one.meta.get("study", study.fingerprint) != study.fingerprint:
        raise StaleResult("the leave-one-out scores belong to another study: call ic.evaluation.leave_one_out again")
    known = torch.as_tensor(one.test_ids)
    if not bool(torch.isin(test_ids, known).any()):
        raise InvalidInput(
            f"none of the test images to explain is in {one!r}: give test= some of its own, such as "
            f"{known[:8].tolist()}"
        )


def _some_ids(study: Study, given: Sequence[int] | int, seed: int) -> Sequence[int] | Tensor:
    """The training images to leave out: those given, or so many random ones."""
    if not isinstance(given, int):
        return given
    if isinstance(given, bool) or not 3 <= given <= len(study.train):
        raise InvalidInput(f"leave_one_out is {given!r}; a rank correlation takes 3 to {len(study.train)} images")
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(len(study.train), generator=generator)[:given].sort().values
