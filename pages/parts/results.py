"""Fitted estimators and their scores, computed once for all tabs."""

import threading
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from typing import TypeVar
from weakref import WeakValueDictionary

import pandas as pd
import streamlit as st
import torch
from cachetools import LRUCache
from streamlit.delta_generator import DeltaGenerator

import influence_core as ic

T = TypeVar("T")

BLOCK = 32
"""Test images whose influences are computed together."""

KEPT = 256
"""Results held at once, those of the longest ago asked for being let go first: two rounds of everything that all
estimators have to say of a study."""

_guard = threading.Lock()
_kept: LRUCache[Hashable, object] = LRUCache(maxsize=KEPT)
_locks: WeakValueDictionary[Hashable, threading.Lock] = WeakValueDictionary()  # of what is being computed just now
_place: ContextVar[DeltaGenerator | None] = ContextVar("place", default=None)  # of the bar: work within work shares it


def once(key: Hashable, work: Callable[[], T], what: str) -> T:
    """Do work once; other tabs that want the same wait for it. Progress is shown while it lasts.

    Args:
        key: what the result depends on, whole.
        work: makes the result.
        what: a few words for the progress bar.

    Returns:
        The result, shared by all tabs: not to be changed.
    """
    with _guard:
        if key in _kept:
            return _kept[key]  # type: ignore[return-value]  # stored under this key by the same kind of work
        lock = _locks.setdefault(key, threading.Lock())
    outer = _place.get()
    place = outer or st.empty()
    place.progress(0.0, f"{what} …")

    def show(step: str, done: int, total: int) -> None:
        place.progress(min(1.0, done / total) if total else 0.0, f"{step} · {done} of {total}")

    token = _place.set(place)
    try:
        with lock, ic.progress.listen(show):
            with _guard:
                if key in _kept:  # by the tab that was waited for
                    return _kept[key]  # type: ignore[return-value]
            made = work()
            with _guard:
                _kept[key] = made
            return made
    finally:
        _place.reset(token)
        if outer is None:
            place.empty()


def estimator(study: ic.Study, name: str) -> ic.estimators.Estimator:
    """An estimator with its default settings, fitted on ``study``."""
    fresh = ic.estimators.get(name)
    return once((study.fingerprint, name, "fit"), lambda: fresh.fit(study), f"Fitting {fresh.title}")


def mislabels(study: ic.Study, name: str) -> ic.Scores:
    """Mislabel scores of all training images."""
    title = _able(name, "mislabel_scores").title
    key = (study.fingerprint, name, "mislabel")
    return once(key, lambda: estimator(study, name).mislabel_scores(), f"{title}: mislabel scores")


def detection(study: ic.Study, name: str) -> ic.applications.Detection:
    """Curves and Otsu's threshold."""
    key = (study.fingerprint, name, "detection")
    return once(key, lambda: ic.applications.detect(study, mislabels(study, name)), "Curves")


def influence(study: ic.Study, name: str, test_id: int) -> ic.Scores:
    """Influence on one test image; its neighbours in the list of mistakes are computed along where that is cheap."""
    fresh = _able(name, "influence")
    wrong = study.misclassified()
    position = (wrong == test_id).nonzero().flatten()
    block = torch.tensor([test_id])
    if position.numel() and not fresh.solves_each_query:
        start = int(position[0]) // BLOCK * BLOCK
        block = wrong[start : start + BLOCK]
    key = (study.fingerprint, name, "influence", tuple(block.tolist()))
    return once(key, lambda: estimator(study, name).influence(block), f"{fresh.title}: influence")


def suggestions(study: ic.Study, name: str) -> pd.DataFrame:
    """The relabel table of all training images."""

    def work() -> pd.DataFrame:
        return ic.applications.relabel(study, estimator(study, name), scores=mislabels(study, name))

    title = _able(name, "mislabel_scores").title
    return once((study.fingerprint, name, "relabel"), work, f"{title}: suggestions")


def _able(name: str, method: str) -> ic.estimators.Estimator:
    """An unfitted estimator that gives ``method``; it refuses itself otherwise, so before any work."""
    fresh = ic.estimators.get(name)
    if method not in fresh.gives():
        getattr(fresh, method)()
    return fresh
