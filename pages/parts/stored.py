"""What lasts behind the pages: answers on the disk, and jobs, which go on when the browser or this server ends."""

from functools import lru_cache
from typing import Any

import streamlit as st

import influence_core as ic
from parts import work

PATIENCE = 150.0
"""Seconds after which a job ends that no page has asked about: browsers let hidden tabs ask once a minute."""
TOP = 10
"""Images on each side whose place in a ranking is watched while it is made."""


def store() -> ic.store.Store:
    """The store that answers are written to."""
    return ic.store.Store()


def request(
    study: ic.Study, name: str, method: str, test: int | tuple[int, ...] | None = None
) -> tuple[ic.store.Request | None, str]:
    """What is asked of an estimator with its default settings, as the store knows it.

    Args:
        study: of which it is asked.
        name: of the estimator.
        method: public method.
        test: ids of test images, for "influence".

    Returns:
        The request, or ``None`` and why nobody could say later what its answer belongs to.
    """
    ids = test if test is None or isinstance(test, tuple) else (test,)
    try:
        return _request(study, name, method, ids), ""
    except ic.NotSupported as error:
        return None, str(error)


@lru_cache(maxsize=256)
def _request(study: ic.Study, name: str, method: str, ids: tuple[int, ...] | None) -> ic.store.Request:
    return ic.store.Request.of(study, name, method, test=None if ids is None else list(ids))


def has(study: ic.Study, method: str, name: str) -> bool:
    """Whether an answer about all training images is on the disk; of influence, that depends on the test image.

    Args:
        study: of which it is asked.
        method: public method.
        name: of the estimator.

    Returns:
        Whether it takes no time.
    """
    asked = None if method == "influence" else request(study, name, method)[0]
    return asked is not None and _reading(study).progress(asked).state == "finished"


def _reading(study: ic.Study) -> ic.store.Store:
    return ic.store.Store(also=ic.store.beside(study))


def find(request: ic.store.Request) -> Any:
    """An answer that is on the disk, here or beside the study; else ``None``, and also where it is damaged.

    Args:
        request: what is asked.

    Returns:
        The answer, whose numbers are read from the file as they are looked at.
    """
    try:
        return _reading(request.study).find(request)
    except (ic.InvalidInput, ic.StaleResult):
        return None  # whoever computes it sets what is damaged aside


def compute(request: ic.store.Request) -> Any:
    """Compute an answer here, and keep it; nothing is fitted or computed where it is on the disk already.

    What is quick is no worse in one go, unless a part of it is there.

    Args:
        request: what is asked.

    Returns:
        As from ``find``.
    """
    found = find(request)
    if found is not None:
        return found
    place, words = store(), f"{request.estimator.title}: fit"
    fitted = work.once(fit_key(request), lambda: place.fit(request), words)  # so that who waits for it can be stopped
    return place.compute(request if place.progress(request).done else request.whole(), fitted)


def fit_key(request: ic.store.Request) -> tuple[str, str, str]:
    """Where this server keeps the fitted estimator of a request, for a while."""
    return request.study.fingerprint, request.estimator.name, "fit"


def job(request: ic.store.Task) -> ic.jobs.Job | None:
    """The job of a request that is not through: under way, or ended before. A person is taken to want it.

    Args:
        request: what is asked.

    Returns:
        The job; ``None`` where there is none, or it ended because nobody wanted it, so that it begins anew by itself.
    """
    found = ic.jobs.Job(store(), request.key, request)
    try:
        row = found.row
    except ic.InvalidInput:  # none
        return None
    if row.under_way:
        found.ask()
        return found
    unwanted = row.state == "cancelled" and row.error is not None
    return None if row.state == "done" or unwanted else found


def submit(request: ic.store.Task, first: bool, keep: bool = False) -> ic.jobs.Job:
    """Let another process answer.

    Args:
        request: what is asked.
        first: whether a person waits for it.
        keep: whether it goes on although no page asks about it any more.

    Returns:
        The job.
    """
    return ic.jobs.submit_task(request, store=store(), keep=keep, patience=PATIENCE, first=first)


def whole(request: ic.store.Task) -> bool:
    """Whether an answer is in this server's store, so that asking for it computes nothing."""
    return store().whole(request)


def partial(request: ic.store.Task) -> ic.Scores | None:
    """The scores that are there so far, where they are a ranking of the training images.

    Args:
        request: what is asked.

    Returns:
        Scores of some training images; ``None`` while there are fewer than ``TOP``.
    """
    if request.what == "mislabel_scores" or (request.test is not None and len(request.test) == 1):
        return _partial(request.key, store().progress(request).done, request)
    return None


@st.cache_resource(max_entries=16, show_spinner=False)
def _partial(key: str, done: int, _request: ic.store.Task) -> ic.Scores | None:
    found = store().partial(_request) if done else None
    return None if found is None or len(found.values) < TOP else found


def steady(scores: ic.Scores, request: ic.store.Task) -> str:
    """How long the ends of a ranking that is still made have been as they are.

    Args:
        scores: the part that is there.
        request: what is asked.

    Returns:
        Such as "top 10 unchanged since 22 %".
    """
    return str(ic.jobs.stability(scores, TOP, len(request.study.train)))
