"""Fitted estimators and their scores, computed once for all tabs."""

import threading
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TypeVar

import pandas as pd
import streamlit as st
import torch

import influence_core as ic

T = TypeVar("T")

SOLVERS = (ic.estimators.ConjugateGradient, ic.estimators.LiSSA, ic.estimators.SAMHIF)  # SAMIF is the first of them
"""Those that solve a linear system for every test image, which the neighbours in a list would have to wait for."""

_guard = threading.Lock()
_locks: dict[Hashable, threading.Lock] = {}
_kept: dict[Hashable, object] = {}

BLOCK = 32
"""Test images whose influences are computed together."""


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
        lock = _locks.setdefault(key, threading.Lock())
    if key not in _kept:
        place = st.empty()
        with place.container():
            bar = st.progress(0.0, f"{what} …")

        def show(step: str, done: int, total: int) -> None:
            bar.progress(min(1.0, done / total) if total else 0.0, f"{step} · {done} of {total}")

        try:
            with lock, ic.progress.listen(show):
                if key not in _kept:
                    _kept[key] = work()
        finally:
            place.empty()
    return _kept[key]  # type: ignore[return-value]  # stored under this key by the same kind of work


def estimator(study: ic.Study, name: str) -> ic.estimators.Estimator:
    """An estimator with its default settings, fitted on ``study``."""
    fresh = ic.estimators.get(name)
    return once((study.fingerprint, name, "fit"), lambda: fresh.fit(study), f"Fitting {fresh.title}")


def mislabels(study: ic.Study, name: str) -> ic.Scores:
    """Mislabel scores of all training images."""
    _refuse(name, "mislabel_scores")
    fitted = estimator(study, name)
    return once((study.fingerprint, name, "mislabel"), fitted.mislabel_scores, f"{fitted.title}: mislabel scores")


def detection(study: ic.Study, name: str) -> ic.applications.Detection:
    """Curves and Otsu's threshold."""
    scores = mislabels(study, name)
    return once((study.fingerprint, name, "detection"), lambda: ic.applications.detect(study, scores), "Curves")


def cut(study: ic.Study, name: str, threshold: float) -> ic.applications.Detection:
    """``detection`` with another threshold; curves and intervals do not depend on it."""
    scores, base = mislabels(study, name), detection(study, name)
    order = torch.sort(scores.values, descending=True, stable=True)
    return replace(base, threshold=threshold, flagged=scores.train_ids[order.indices[order.values > threshold]])


def influence(study: ic.Study, name: str, test_id: int) -> ic.Scores:
    """Influence on one test image; its neighbours in the list of mistakes are computed along."""
    _refuse(name, "influence")
    fitted = estimator(study, name)
    wrong = study.misclassified()
    position = (wrong == test_id).nonzero().flatten()
    block = torch.tensor([test_id])
    if position.numel() and not isinstance(fitted, SOLVERS):
        start = int(position[0]) // BLOCK * BLOCK
        block = wrong[start : start + BLOCK]
    key = (study.fingerprint, name, "influence", tuple(block.tolist()))
    return once(key, lambda: fitted.influence(block), f"{fitted.title}: influence")


def suggestions(study: ic.Study, name: str) -> pd.DataFrame:
    """The relabel table of all training images."""
    scores, fitted = mislabels(study, name), estimator(study, name)
    key = (study.fingerprint, name, "relabel")
    return once(key, lambda: ic.applications.relabel(study, fitted, scores=scores), f"{fitted.title}: suggestions")


def _refuse(name: str, method: str) -> None:
    """Ask an unfitted estimator, so that a refusal comes before any work."""
    fresh = ic.estimators.get(name)
    if method not in fresh.gives():
        getattr(fresh, method)()
