"""What removing training images does, by whose order they go: harmful ones, valuable ones, or the least memorised.

A score that knows which images do harm finds ones whose removal helps, and one that knows which are valuable finds ones
whose removal hurts; removing as many at random says what the smaller number alone does. Every share of images is
removed and the model trained again, with every seed, from the same new weights as the model on all images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from influence_core.applications.removal_report import FULL, RANDOM, Removals
from influence_core.applications.trainings import outcomes, wanted
from influence_core.data import LabelledDataset
from influence_core.errors import InvalidInput, NotSupported, StaleResult
from influence_core.estimators import Estimator
from influence_core.estimators.together import EstimatorLike, estimator_of
from influence_core.scores import Scores
from influence_core.store import Store
from influence_core.store.retrainings import RECIPE, Retrain
from influence_core.study import Study

SHARES = (0.0, 0.02, 0.05, 0.07, 0.1, 0.25)

Order = Literal["harmful", "valuable"]


def values(study: Study, estimator: EstimatorLike) -> Tensor:
    """How valuable each training image is, by an estimator: large where its removal should hurt.

    The sum of its influence on the validation images where the study has some, and else on the test images: these then
    choose the images that they judge, and the curves are too good. Of an estimator that gives no influence, minus its
    mislabel scores.

    Args:
        study: whose training images they are.
        estimator: its hyper-parameters count; it is fitted here.

    Returns:
        float64 [N].

    Raises:
        NotSupported: if it gives neither.
    """
    estimator = estimator_of(estimator)
    gives = estimator.gives()
    fresh = type(estimator)(**estimator.get_params())
    if "influence" in gives:
        judge = study if study.validation is None else study.replaced(test=study.validation)
        return fresh.fit(judge).influence().values.double().sum(1)
    if "mislabel_scores" not in gives:
        raise NotSupported(
            f"{estimator.title} gives neither influence nor mislabel scores, so it has no order of images"
        )
    return -fresh.fit(study).mislabel_scores().values.double()


def removal_curves(
    study: Study,
    by: Mapping[str, EstimatorLike | Scores | Tensor] | Sequence[EstimatorLike] | EstimatorLike,
    order: Order = "harmful",
    shares: Sequence[float] = SHARES,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    retrain: str | Retrain = RECIPE,
    store: Store | None = None,
) -> Removals:
    """Remove the most harmful or most valuable training images, train again, and compare with random removal.

    Args:
        study: with labels that are classes.
        by: estimators, see ``values``; or by name estimators, mislabel ``Scores``, or values of your own, [N], large
            where an image is valuable.
        order: which images go first.
        shares: of the training images to remove; 0 is the model on all of them, and is always trained.
        seeds: one model each for every share and order.
        retrain: trains one model: "recipe", or ``retrain(study, kept, seed)``.
        store: where each finished training is kept, so that what is broken off goes on, and other calls find it.

    Returns:
        Curves, with a table and a figure.

    Raises:
        InvalidInput: if a share or an order makes no sense, or two have one name.
    """
    if order not in ("harmful", "valuable"):
        raise InvalidInput(f"order is {order!r}; choose harmful or valuable")
    sign = 1.0 if order == "harmful" else -1.0
    ranked = {name: (sign * _valued(study, one)).argsort(stable=True) for name, one in named(by).items()}
    return _removed(study, ranked, order, shares, seeds, retrain, store)


def prune(
    study: Study,
    by: Mapping[str, EstimatorLike | Tensor] | Sequence[EstimatorLike] | EstimatorLike,
    shares: Sequence[float] = SHARES,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    retrain: str | Retrain = RECIPE,
    store: Store | None = None,
) -> Removals:
    """Drop the training images with the least self-influence, which the others make up for, and train again.

    Args:
        study: with labels that are classes.
        by: estimators, fitted here, or by name estimators or self-influence of your own, [N].
        shares: of the training images to drop.
        seeds: one model each.
        retrain: trains one model, see ``removal_curves``.
        store: where each finished training is kept.

    Returns:
        Curves, in the form of ``removal_curves``.
    """
    ranked = {}
    for name, one in named(by).items():
        if isinstance(one, Estimator):
            one = type(one)(**one.get_params()).fit(study).self_influence().values
        ranked[name] = _checked(study, one).argsort(stable=True)
    return _removed(study, ranked, "pruned", shares, seeds, retrain, store)


def named(by: Mapping[str, Any] | Sequence[EstimatorLike] | EstimatorLike) -> dict[str, Any]:
    """Estimators, or what else orders images, by names that are all different.

    Args:
        by: with names, or estimators, which have their own; or a single one.

    Returns:
        Name -> one; estimators that are given by name or class are made.

    Raises:
        InvalidInput: if two have one name.
    """
    if isinstance(by, Mapping):
        return {name: estimator_of(one) if isinstance(one, str | type) else one for name, one in by.items()}
    made = [estimator_of(one) for one in ([by] if isinstance(by, str | type | Estimator) else by)]
    named = {estimator.name: estimator for estimator in made}
    if len(named) < len(made):
        raise InvalidInput("two estimators have one name: give them by names of your own, {'ekfac 0.1': ...}")
    return named


def _removed(
    study: Study,
    ranked: Mapping[str, Tensor],
    order: str,
    shares: Sequence[float],
    seeds: Sequence[int],
    retrain: str | Retrain,
    store: Store | None,
) -> Removals:
    size = len(study.train)
    counts = sorted({round(share * size) for share in shares} | {0})
    bad = [share for share in shares if not 0 <= share < 1]
    if bad or counts[-1] >= size:
        raise InvalidInput(f"a share of {bad or shares} to remove: give shares from 0 to below 1, such as 0.1 for 10 %")
    taken = {FULL, RANDOM} & ranked.keys()
    if taken:
        raise InvalidInput(f"the name {taken.pop()!r} is that of a control: choose another one")

    def at_random(seed: int) -> Tensor:
        return torch.randperm(size, generator=torch.Generator().manual_seed(seed))

    orders: dict[str, Callable[[int], Tensor]] = {RANDOM: at_random}
    orders |= {name: (lambda _, ids=ids: ids) for name, ids in ranked.items()}  # type: ignore[misc]
    sets: dict[str, Callable[[int], LabelledDataset]] = {FULL: lambda _: study.train}
    for name, drawn in orders.items():
        for count in counts[1:]:
            sets[_key(name, count)] = lambda seed, drawn=drawn, count=count: study.train.without(drawn(seed)[:count])  # type: ignore[misc]
    found, _ = outcomes(study, wanted(sets, seeds), retrain=retrain, store=store, purpose="removing and training again")
    curves = {name: {count: found[_key(name, count) if count else FULL] for count in counts} for name in orders}
    wrong = study.train.corrupted
    hit = {} if wrong is None else {n: {c: int(wrong[i[:c]].sum()) for c in counts} for n, i in ranked.items()}
    return Removals(order, curves, size, [int(seed) for seed in seeds], study.name, hit)


def _key(name: str, count: int) -> str:
    return f"{name}-without-{count}"


def _valued(study: Study, one: Estimator | Scores | Tensor) -> Tensor:
    if isinstance(one, Estimator):
        return values(study, one)
    if isinstance(one, Scores):
        if one.meta.get("study", study.fingerprint) != study.fingerprint:
            raise StaleResult(f"these {one.name} scores belong to another study: call .fit(study) again")
        if one.kind not in ("influence", "mislabel"):
            raise NotSupported(f"{one.kind} scores do not say which images do harm; give influence or mislabel scores")
        one = one.values.double().sum(1) if one.kind == "influence" else -one.values
    return _checked(study, one)


def _checked(study: Study, one: Tensor) -> Tensor:
    given = torch.as_tensor(one).detach().cpu().double()
    if given.shape != (len(study.train),) or not bool(given.isfinite().all()):
        raise InvalidInput(f"values are {tuple(given.shape)}; expected {len(study.train)} finite numbers, one an image")
    return given
