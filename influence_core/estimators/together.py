"""Several estimators at once: their passes over the same images are made together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from influence_core.errors import InvalidInput, StaleResult
from influence_core.estimators.base import Estimator
from influence_core.estimators.registry import get
from influence_core.gradients import Meeting
from influence_core.progress import listen, track
from influence_core.study import Study

T = TypeVar("T")

EstimatorLike = str | type[Estimator] | Estimator
"""A name, such as "ekfac", a class, or an object."""

_LOOK = 0.1  # seconds between two looks at whether somebody wants the work stopped


def fit_all(study: Study, estimators: Sequence[EstimatorLike]) -> list[Estimator]:
    """Fit several estimators on one study, with the passes that they share made once.

    Sweeps over the same images with the same weights become one, which costs little more than the dearest of them
    alone; what estimators do apart, such as training ensemble members, takes as long as one after the other. Each is
    fitted as it would be alone, and all are in memory at the same time.

    Args:
        study: to fit on.
        estimators: names, classes or objects, each one once.

    Returns:
        The fitted estimators, in order.

    Raises:
        InvalidInput: if an object comes twice, or is no estimator.

    Example:
        >>> import influence_core as ic
        >>> study = ic.demo.digits()
        >>> fitted = ic.estimators.fit_all(study, ["randproj", ic.estimators.EKFAC(damping=0.01)])
        >>> [scores.name for scores in ic.estimators.ask_all(fitted, "influence", test=[17])]
        ['randproj', 'ekfac']
    """
    chosen = [estimator_of(one) for one in estimators]
    if len({id(one) for one in chosen}) < len(chosen):
        raise InvalidInput("an estimator comes twice: fit_all takes each object once")
    return _together([(one, partial(one.fit, study)) for one in chosen], "Fitting estimators")


def ask_all(estimators: Sequence[Estimator], what: str, *args: Any, **options: Any) -> list[Any]:
    """Ask several fitted estimators the same, with the passes that they share made once.

    Args:
        estimators: fitted.
        what: a public method, such as "influence" or "mislabel_scores".
        *args: of the method.
        **options: of the method.

    Returns:
        What each of them says, in order.
    """
    calls = [(one, partial(getattr(one, what), *args, **options)) for one in estimators]
    return _together(calls, f"Asking estimators: {what}")


def estimator_of(given: EstimatorLike) -> Estimator:
    """An estimator that is given by its name, its class, or itself.

    Args:
        given: one of the three.

    Returns:
        The estimator; a new one with default hyper-parameters where it is not given itself.

    Raises:
        InvalidInput: if it is no estimator.
    """
    if isinstance(given, str):
        return get(given)
    made = given() if isinstance(given, type) else given
    if not isinstance(made, Estimator):
        raise InvalidInput(f"{given!r} is no estimator: give a name such as 'ekfac', a class, or an object of one")
    return made


def fitted_on(study: Study, given: EstimatorLike) -> Estimator:
    """An estimator that can be asked about a study: one that is fitted is taken as it is, and else it is fitted.

    Args:
        study: to fit on.
        given: a name, a class, or an object; an object that is not fitted stays so, and a copy is.

    Returns:
        The fitted estimator.

    Raises:
        InvalidInput: if it is no estimator.
        StaleResult: if it was fitted on another study.
    """
    one = estimator_of(given)
    fitted = getattr(one, "study_", None)
    if fitted is None:
        return type(one)(**one.get_params()).fit(study)
    if fitted is not study and fitted.fingerprint != study.fingerprint:
        raise StaleResult(f"this {one.title} was fitted on another study: call .fit(study) again")
    return one


def _together(calls: Sequence[tuple[Estimator, Callable[[], T]]], title: str) -> list[T]:
    """Make all calls at once, each in a thread of its own."""
    meeting, stopped = Meeting(len(calls)), threading.Event()
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}
    ended = threading.Semaphore(0)

    def told(what: str, done: int, total: int) -> None:
        if stopped.is_set():
            raise _StoppedError

    def run(number: int, call: Callable[[], T]) -> None:
        try:
            with listen(told), meeting.joined():
                results[number] = call()
        except BaseException as error:
            errors[number] = error
        finally:
            ended.release()

    threads = [threading.Thread(target=run, args=(n, call), daemon=True) for n, (_, call) in enumerate(calls)]
    for thread in threads:
        thread.start()
    try:
        for _ in track(calls, title):
            while not ended.acquire(timeout=_LOOK):
                pass
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    for number, (estimator, _) in enumerate(calls):
        if number in errors:
            errors[number].add_note(f"(of {estimator.title})")
            raise errors[number]
    return [results[number] for number in range(len(calls))]


class _StoppedError(Exception):
    """The work is no longer wanted."""
