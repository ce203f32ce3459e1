"""What the pages ask of the library, as work in the background; computed once for all tabs."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st
import torch

import influence_core as ic
from parts import work
from parts.frame import Choice

BLOCK = 32
"""Mistakes next to the one on show whose influences are computed ahead."""
AT_ONCE = 30.0
"""Expected seconds up to which work begins by itself; what takes longer says so and waits for a click."""
BY_DEFAULT = 60.0
"""The same for an estimator that nobody chose: the limit within which it was recommended."""
AHEAD = 20.0
"""Seconds up to which a sweep for one image is worth another for its neighbours."""


@dataclass(frozen=True)
class Question:
    """Something that an estimator can be asked, whose answer may be there, under way, or yet to be started.

    Attributes:
        study: of which it is asked.
        name: of the estimator.
        what: public method.
        test: the test image, for "influence".
        task: under way or done; ``None`` where nothing was started.
        expected: what it will cost.
    """

    study: ic.Study
    name: str
    what: str
    test: int | None
    task: work.Task | None
    expected: ic.estimators.Expected | None = None

    @property
    def answer(self) -> Any:
        """The result, or ``None`` while there is none."""
        return self.task.value if self.task is not None and self.task.state == "done" else None

    def start(self, fills_in: bool = False, meeting: ic.gradients.Meeting | None = None) -> work.Task | None:
        """Begin, whatever it costs; in a meeting, passes are shared with the others there."""
        work.begin_again(_keys(self.study, self.name, self.what, self.test)[0])
        if self.what == "relabel":
            return None  # it begins when the page asks, which it does next
        return _start(self.study, self.name, self.what, self.test, self.expected, fills_in, meeting)


def ask_all(choice: Choice, names: Sequence[str], test: int) -> list[Question]:
    """Ask several estimators for the influence on a test image; the passes that they share are made once.

    Those that solve or train for long stay out of it: the others would wait for them.

    Args:
        choice: the study, and which estimators a person chose.
        names: of the estimators.
        test: id of the test image.

    Returns:
        The questions, in order.
    """
    quick = [name for name in names if _only_passes(choice.study, name)]
    meeting = ic.gradients.Meeting(min(len(quick), work.WORKERS)) if len(quick) > 1 else None
    return [ask(choice, name, "influence", test, meeting=meeting if name in quick else None) for name in names]


def _only_passes(study: ic.Study, name: str) -> bool:
    estimator = ic.estimators.get(name)
    if estimator.solves_each_query or estimator.missing(study, "influence"):
        return False
    stated = estimator.work(study, "influence")
    return stated is not None and not any(part.plain for part in stated)


def ask(
    choice: Choice,
    name: str,
    what: str,
    test: int | None = None,
    fills_in: bool = False,
    meeting: ic.gradients.Meeting | None = None,
) -> Question:
    """Ask an estimator with its default settings; what is quick begins by itself.

    Args:
        choice: the study, and which estimators a person chose.
        name: lower-case name of the estimator.
        what: "influence" (of all training images on ``test``), "detection" (mislabel scores, judged) or "relabel".
        test: id of the test image.
        fills_in: whether something else is what a person waits for.
        meeting: where it shares passes with others that begin now.

    Returns:
        The question with its answer, or with where it is.
    """
    study, limit = choice.study, AT_ONCE if name in choice.picked.estimators else BY_DEFAULT
    for number, key in enumerate(_keys(study, name, what, test)):
        task = work.peek(key)
        if task is not None and (number == 0 or task.state == "done"):  # alone it is quicker than with its neighbours
            return Question(study, name, what, test, task)
    if work.was_stopped(_keys(study, name, what, test)[0]):
        return Question(study, name, what, test, work.Task((), "", lambda: None, state="stopped"))
    method = "influence" if what == "influence" else "mislabel_scores"
    expected = ic.estimators.expected_cost(
        study, ic.estimators.get(name), method, fitted=work.has((study.fingerprint, name, "fit"))
    )
    question = Question(study, name, what, test, None, expected)
    if expected.seconds is None or expected.seconds > limit:
        return question
    return Question(study, name, what, test, question.start(fills_in, meeting), expected)


def ahead(study: ic.Study, name: str, test: int) -> None:
    """Compute the mistakes next to one on show as well, while nobody waits: a click on them is answered at once."""
    fresh = ic.estimators.get(name)
    block = _block(study, test)
    if fresh.solves_each_query or len(block) < 2 or work.has(_key(study, name, "influence", tuple(block))):
        return
    expected = ic.estimators.expected_cost(study, fresh, "influence", len(block), fitted=True)
    if expected.seconds is not None and expected.seconds <= AHEAD:
        task = work.ask(
            _key(study, name, "influence", tuple(block)),
            lambda: _fitted(study, name).influence(block),
            f"{fresh.title}: the next mistakes",
            expected.seconds,
            fills_in=True,
        )
        task.asked += 5 * AHEAD  # no page looks at it while it is made


def known(study: ic.Study) -> list[ic.Scores]:
    """All scores of a study that are computed and kept."""
    found: list[ic.Scores] = []
    for key, value in work.results():
        if isinstance(key, tuple) and key[0] == study.fingerprint:
            scores = value.scores if isinstance(value, ic.applications.Detection) else value
            if isinstance(scores, ic.Scores) and not any(scores is other for other in found):
                found.append(scores)
    return found


def suggestions(study: ic.Study, name: str, detection: ic.applications.Detection) -> Question:
    """The relabel table of all training images; its flags are those of ``detection``, see ``flagged``."""
    key = _key(study, name, "relabel", None)
    task = work.peek(key)
    if task is None and work.was_stopped(key):
        task = work.Task((), "", lambda: None, state="stopped")
    if task is None:
        title = ic.estimators.get(name).title

        def table() -> pd.DataFrame:
            return ic.applications.relabel(study, _fitted(study, name), scores=detection.scores)

        task = work.ask(key, table, f"{title}: suggestions")
    return Question(study, name, "relabel", None, task)


def flagged(table: pd.DataFrame, detection: ic.applications.Detection) -> pd.DataFrame:
    """A relabel table with the flags of another cut."""
    mine = torch.zeros(len(table), dtype=torch.bool)
    mine[detection.flagged] = True
    return table.assign(is_label_issue=mine[torch.from_numpy(table["index"].to_numpy(copy=True))].numpy())


def _start(
    study: ic.Study,
    name: str,
    what: str,
    test: int | None,
    expected: ic.estimators.Expected | None,
    fills_in: bool,
    meeting: ic.gradients.Meeting | None = None,
) -> work.Task:
    title = ic.estimators.get(name).title
    seconds = expected.seconds if expected is not None else None

    def influence() -> ic.Scores:
        with meeting.joined() if meeting is not None else nullcontext():
            return _fitted(study, name).influence(test)

    def detection() -> ic.applications.Detection:
        scores = work.once(
            _key(study, name, "mislabel", None),
            lambda: _fitted(study, name).mislabel_scores(),
            f"{title}: mislabel scores",
        )
        found = ic.applications.detect(study, scores)
        _ = found.bands  # with the curves, not when they are drawn
        return found

    key = _keys(study, name, what, test)[0]
    words = {"influence": f"{title}: influence", "detection": f"{title}: suspicion"}[what]
    return work.ask(key, influence if what == "influence" else detection, words, seconds, fills_in)


def _fitted(study: ic.Study, name: str) -> ic.estimators.Estimator:
    fresh = ic.estimators.get(name)
    return work.once((study.fingerprint, name, "fit"), lambda: fresh.fit(study), f"{fresh.title}: fit")


def _keys(study: ic.Study, name: str, what: str, test: int | None) -> list[tuple[Any, ...]]:
    """Where the answer is kept: alone, or with the neighbours of the test image."""
    if what != "influence" or test is None:
        return [_key(study, name, what, None)]
    return [_key(study, name, what, ids) for ids in dict.fromkeys([(test,), tuple(_block(study, test))])]


def _key(study: ic.Study, name: str, what: str, ids: tuple[int, ...] | None) -> tuple[Any, ...]:
    return (study.fingerprint, name, what, ids)


def _block(study: ic.Study, test: int) -> list[int]:
    """A mistake with those that a gallery shows beside it: the model's surest first."""
    order = _mistakes(study.fingerprint, study)
    if test not in order:
        return [test]
    start = order.index(test) // BLOCK * BLOCK
    return order[start : start + BLOCK]


@st.cache_resource(max_entries=32, show_spinner=False)
def _mistakes(fingerprint: str, _study: ic.Study) -> list[int]:
    wrong = _study.misclassified()
    surest = _study.outputs()[wrong].softmax(1).max(1).values
    return [int(i) for i in wrong[torch.sort(surest, descending=True, stable=True).indices]]


LOOKED_THROUGH = 20_000
"""Training images that a test image is compared with at most; the first page of a larger set would wait for long."""


def copies(study: ic.Study, test: int) -> list[tuple[int, float]] | None:
    """Training images that are the test image, or nearly: a leak, which explains the answer by itself.

    Args:
        study: the study.
        test: id of the test image.

    Returns:
        Training id and likeness (2: equal inputs), the most alike first; ``None`` while it is not known.
    """
    if len(study.train) > LOOKED_THROUGH:
        return None

    def work_on() -> list[tuple[int, int, float]]:
        try:
            train, tests = ic.data.small_pictures(study.train), ic.data.small_pictures(study.test)
        except ic.NotSupported:  # no images
            return []
        return ic.data.lookalikes(tests, train)

    task = work.ask((study.fingerprint, "copies"), work_on, "Test images in the training set", fills_in=True)
    work.wait([task])
    if task.state != "done":
        return None
    return [(train, likeness) for one, train, likeness in task.value if one == test]
