r"""What a change of the training set would do to every test image, before anybody trains.

Two ways lead there. Influence adds up: leaving images out changes a test loss by the sum of their scores, a weight w by
1 - w times the score, and a new label by the score with the given label less that with the new one. An edit moves the
weights by ``parameter_change`` and looks at what the edited model says, so that a large change is not taken to be a
straight line, and predictions are there as well. Both go only as far as the training loss is what the estimator takes
it for (``trusted_step``), and are judged by ``verify``, which trains with and without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from torch import Tensor

from influence_core.applications.predicted_change import added_up, as_arguments, flips
from influence_core.applications.receipt import Action, How, Receipt, receipts
from influence_core.applications.receipt_calibration import in_range
from influence_core.applications.trusted_step import edited_as_far, step_work
from influence_core.applications.whatif_report import WhatIf
from influence_core.errors import InvalidInput
from influence_core.estimators import Estimator
from influence_core.estimators.changes import data_change
from influence_core.estimators.cost import Expected, expected_cost
from influence_core.estimators.together import EstimatorLike, fitted_on
from influence_core.identity import check_identified
from influence_core.parameters import plain
from influence_core.scores import Scores
from influence_core.store import Store
from influence_core.study import Study


def expected_what_if(
    study: Study, estimator: Estimator, action: Action = "remove", images: int = 1, fitted: bool = False
) -> Expected:
    """What a prediction by ``what_if`` will cost, without starting it.

    Args:
        study: to be worked on.
        estimator: with its hyper-parameters, fitted or not.
        action: see ``what_if``.
        images: that change.
        fitted: whether the estimator is fitted already.

    Returns:
        Seconds, passes and memory, with the passes that the length of an edit takes at most; see
        ``ic.estimators.expected_cost``.

    Raises:
        InvalidInput: if nothing changes.
        NotSupported: if the estimator gives neither influence nor ``parameter_change``.

    Example:
        >>> import influence_core as ic
        >>> expected_what_if(ic.demo.digits(), ic.estimators.LastLayer(), images=20).memory_mib < 100
        True
    """
    if images < 1:
        raise InvalidInput(f"images is {images}; the cost is that of changing at least one")
    gives = estimator.gives()
    edits = "parameter_change" in gives
    besides = step_work(study, images) if edits and not estimator.scales_edits else None
    if edits and (action == "relabel" or "influence" not in gives):
        return expected_cost(study, estimator, "parameter_change", images, fitted, besides)
    again = fitted and action != "relabel"  # for new labels it is fitted once more
    return expected_cost(study, estimator, "influence", len(study.test), again, besides)


def what_if(
    study: Study,
    estimator: EstimatorLike,
    ids: int | Sequence[int] | Tensor | Mapping[int, Any],
    action: Action = "remove",
    *,
    labels: Mapping[int, int | str] | Sequence[int | str] | Tensor | int | str | None = None,
    weights: Mapping[int, float] | Sequence[float] | Tensor | float | None = None,
    how: How | None = None,
    scores: Scores | None = None,
    store: Store | None = None,
) -> WhatIf:
    """Predict what a change of the training set does to the loss of every test image.

    Args:
        study: that the change is about.
        estimator: fitted on it; one that is not, or a name, is fitted first.
        ids: the training images; for new labels or weights also a dict with these by id.
        action: "remove" leaves them out, "relabel" gives them other labels, "reweight" other weights.
        labels: for "relabel": one for all images, or one each in the order of ``ids``, or a dict by id.
        weights: for "reweight": likewise, 0 or more; every image has weight 1 until now.
        how: "influence" adds up scores; for new labels the estimator is fitted once more, on the study with these.
            "edit" takes the losses of the edited model. By default influence for removals and weights, and an edit for
            new labels, where the estimator gives it.
        scores: the estimator's influence on all test images, where it is there already.
        store: where the prediction is kept as a receipt that ``verify`` completes, and whose receipts say whether it is
            like those that were right.

    Returns:
        The prediction.

    Raises:
        InvalidInput: if ids, labels or weights make no sense, nothing changes, or no training image is left.
        NotSupported: if the estimator gives neither influence nor ``parameter_change``, or not the one asked for.
        StaleResult: if it was fitted on another study.

    Example:
        >>> import influence_core as ic
        >>> study = ic.demo.digits()
        >>> found = what_if(study, ic.estimators.LastLayer().fit(study), [3, 17])
        >>> found.predicted.shape, found.receipt.verified
        (torch.Size([497]), False)
    """
    arguments = as_arguments(len(study.train), ids, action, labels, weights)
    change = data_change(study.train, study.classes, **arguments)
    if not float(change.weights.sum()) and len(change.ids) == len(study.train):
        raise InvalidInput("the change leaves no training image, and nothing to be learnt from; leave some of them")
    estimator = fitted_on(study, estimator)
    gives = estimator.gives()
    first, second = ("edit", "influence") if action == "relabel" else ("influence", "edit")
    needed = {"edit": "parameter_change", "influence": "influence"}
    how = how or (second if needed[second] in gives and needed[first] not in gives else first)  # type: ignore[assignment]
    if how not in needed:
        raise InvalidInput(f"how is {how!r}; choose one of {', '.join(get_args(How))}")
    if needed[how] not in gives:
        raise estimator.lacks(needed[how])
    edited, step = None, None
    if "parameter_change" in gives:
        edited, step = edited_as_far(study, estimator, change, **arguments)
    caveats: tuple[str, ...] = ()
    if how == "edit" and edited is not None:
        predicted, scale = edited.losses().double() - study.losses().double(), "nats" if step else "rank only"
    else:
        predicted, found = added_up(study, estimator, change, scores)
        scale, caveats = found.scale, tuple(found.caveats())
        if step is not None:
            predicted, scale = (step or 1.0) * predicted, scale if step else "rank only"
    receipt = Receipt(
        study=study.fingerprint,
        study_name=study.name,
        estimator=estimator.name,
        parameters=plain(estimator.get_params()),
        action=action,
        ids=tuple(change.ids.tolist()),
        labels=tuple(change.labels.tolist()) if action == "relabel" else (),
        weights=tuple(change.weights.tolist()) if action == "reweight" else (),
        how=how,
        scale=scale,
        test_ids=tuple(range(len(study.test))),
        predicted=tuple(predicted.tolist()),
        step=step,
    )
    caution = None
    if store is not None:
        check_identified(study.unidentified, "a receipt")
        caution = in_range(receipt, receipts(store))
        receipt.save(store)
    edited = edited if step else None
    changed = flips(study, edited, study.losses().double() + predicted, scale)
    return WhatIf(study, receipt, change, edited, *changed, caution, step, caveats)
