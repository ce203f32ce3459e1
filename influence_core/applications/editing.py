"""Edited models side by side: what is left of images that go, what is still known, and what training again gives."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from influence_core.applications.editing_report import AGAIN, NONE, Edits, Judged
from influence_core.applications.removal import named
from influence_core.applications.trainings import outcomes, wanted
from influence_core.applications.trusted_step import edited_as_far
from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput
from influence_core.estimators import Estimator, validated_scale
from influence_core.estimators.changes import DataChange, data_change
from influence_core.estimators.together import EstimatorLike
from influence_core.models import model_outputs
from influence_core.progress import track
from influence_core.store import Store
from influence_core.store.retrainings import RECIPE, Retrain
from influence_core.study import Study

Scale = Literal["trusted", "validation"]


def compare_edits(
    study: Study,
    estimators: Mapping[str, EstimatorLike] | Sequence[EstimatorLike] | EstimatorLike,
    *,
    remove: int | Sequence[int] | Tensor | None = None,
    relabel: Mapping[int, int | str] | None = None,
    scale: Scale | float = "trusted",
    seeds: Sequence[int] = (),
    retrain: str | Retrain = RECIPE,
    store: Store | None = None,
) -> Edits:
    """Edit a model by several estimators so that training images go, or get other labels, and compare what comes out.

    An edit has done its work on a removed image once its given label is no longer predicted, and on one with a new
    label once that is. Beside that stands what must not be lost: accuracy on the training images that stay, and on the
    test images of classes that are left. Their harmonic mean is the modified F1 (Lyu et al. 2023, eq. 14). A class goes
    by ``remove=(study.train.labels == k).nonzero().flatten()``, a backdoor by ``relabel`` of the images that have it.

    Args:
        study: with labels that are classes.
        estimators: that give ``parameter_change``, in a list or by names of your own; those that are fitted on this
            study are used as they are, the others are fitted here.
        remove: ids of training images that go.
        relabel: id -> new label, a number or a class name.
        scale: how far to go along each edit: "trusted", as far as the training loss follows (``trusted_step``);
            "validation", where modified F1 is best on the validation set (``ic.estimators.validated_scale``); or a
            factor. Estimators that choose the scale of their edits themselves are left to it, but for a factor.
        seeds: where there are some, a model is trained again for each on what is left, as a control.
        retrain: trains it: "recipe", or ``retrain(study, kept, seed)``.
        store: where each finished training is kept.

    Returns:
        A table, a figure, sentences, and the edited studies.

    Raises:
        InvalidInput: if nothing changes, ids or labels make no sense, names are taken, or no test image has a class
            that is left.
        NotSupported: if an estimator gives no ``parameter_change``, or labels are no classes.

    Example:
        >>> import influence_core as ic
        >>> study = ic.demo.digits()
        >>> found = compare_edits(study, [ic.estimators.LastLayer()], remove=[3, 17, 30])
        >>> found.table["name"].tolist()
        ['no edit', 'lastlayer']
    """
    study.need_classes("editing")
    if not isinstance(scale, float | int) and scale not in get_args(Scale):
        raise InvalidInput(f"scale is {scale!r}; choose one of {', '.join(get_args(Scale))}, or give a factor")
    by = named(estimators)
    if taken := {NONE, AGAIN} & by.keys():
        raise InvalidInput(f"the name {taken.pop()!r} is that of a control: choose another one")
    for one in by.values():
        if "parameter_change" not in one.gives():
            raise one.lacks("parameter_change")
    change = data_change(study.train, study.classes, remove=remove, relabel=relabel)
    asked = {"remove": remove, "relabel": relabel}
    judge = _Judge(study, change)
    rows, studies = [judge(NONE, study, None, 0.0)], {}
    for name, one in track(list(by.items()), "edits"):
        begun = time.perf_counter()
        mine = one if _fitted_here(one, study) else type(one)(**one.get_params()).fit(study)
        edited, far = _edited(study, mine, change, scale, asked)
        rows.append(judge(name, edited, far, time.perf_counter() - begun))
        studies[name] = edited
    if seeds:
        begun = time.perf_counter()
        data = _afterwards(study.train, change)
        these = wanted({AGAIN.replace(" ", "-"): lambda _: data}, seeds, keep=(AGAIN.replace(" ", "-"),))
        found, kept = outcomes(study, these, retrain=retrain, store=store, purpose="training again, as a control")
        ((key, outcome),) = found.items()
        again = kept[key].study(study, data, f"{study.name}, trained again")
        right = outcome.right[:, judge.tests]
        rows.append(judge(AGAIN, again.replaced(train=study.train), None, time.perf_counter() - begun, right))
        studies[AGAIN] = again
    return Edits(
        tuple(rows),
        studies,
        removed=int(change.removed.sum()),
        relabelled=int(change.relabelled.sum()),
        seeds=tuple(int(seed) for seed in seeds),
        gone=tuple(study.class_names[k] for k in judge.gone),
        study_name=study.name,
    )


class _Judge:
    """Looks at models after a change of the training set."""

    def __init__(self, study: Study, change: DataChange) -> None:
        self._study, self._change = study, change
        self._left, self._labels, _ = change.changed_loss(study.train)
        classes = self._labels.unique()
        mask = torch.isin(study.test.labels, classes)
        self.tests = mask.nonzero().flatten()
        self.gone = sorted(set(study.train.labels.tolist()) - set(classes.tolist()))
        if not len(self.tests):
            raise InvalidInput("no test image has a class that is left among the training images")
        concerned = change.removed | change.relabelled
        self._ids, self._after = change.ids[concerned], change.labels[concerned]
        self._removed = change.removed[concerned]
        self._stays = self._left[~torch.isin(self._left, self._ids)]
        self._before: Tensor | None = None

    def __call__(
        self, name: str, edited: Study, scale: float | None, seconds: float, right: Tensor | None = None
    ) -> Judged:
        said = model_outputs(edited.model, self._study.train).argmax(1)
        as_labelled = said[self._ids] == self._after
        done = torch.where(self._removed, ~as_labelled, as_labelled)
        kept = said[self._stays] == self._study.train.labels[self._stays]
        if right is None:
            right = (edited.predictions() == self._study.test.labels)[self.tests][None]
        if self._before is None:
            self._before = right
        return Judged(name, scale, done, kept, right, self._before, seconds)


def _edited(
    study: Study, estimator: Estimator, change: DataChange, scale: Scale | float, asked: Mapping[str, Any]
) -> tuple[Study, float]:
    if scale == "trusted" or (scale == "validation" and estimator.scales_edits):
        return edited_as_far(study, estimator, change, **asked)
    delta = estimator.parameter_change(**asked)
    factor = float(scale) if scale != "validation" else 1.0
    if scale == "validation":
        new = change.relabelled
        labels = dict(zip(change.ids[new].tolist(), change.labels[new].tolist(), strict=True))
        factor = validated_scale(study, delta, change.ids[change.removed], labels)[0]
    return study.edited({name: factor * tensor for name, tensor in delta.items()}), factor


def _fitted_here(estimator: Estimator, study: Study) -> bool:
    fitted = getattr(estimator, "study_", None)
    return fitted is not None and (fitted is study or fitted.fingerprint == study.fingerprint)


def _afterwards(train: LabelledDataset, change: DataChange) -> LabelledDataset:
    """The training set after the change."""
    removed, new = change.ids[change.removed], change.relabelled
    data = train
    if new.any():
        labels = train.labels.clone()
        labels[change.ids[new]] = change.labels[new]
        data = train.with_labels(labels)
    return data.without(removed) if len(removed) else data
