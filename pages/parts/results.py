"""What the pages ask of the library: found on the disk, or made in the background, once for all tabs.

What is quick is computed by a thread of this server, what takes longer by a job, a process of its own; in both cases
the answer is a file that whoever asks again finds.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd
import streamlit as st
import torch

import influence_core as ic
from parts import stored, work
from parts.frame import Choice

BLOCK = 32
"""Mistakes next to the one on show whose influences are computed ahead."""
IN_SERVER = 10.0
"""Expected seconds up to which a thread of this server computes; another process takes some to begin."""
AT_ONCE = 30.0
"""Expected seconds up to which work begins by itself; what takes longer says so and waits for a click."""
BY_DEFAULT = 60.0
"""The same for an estimator that nobody chose: the limit within which it was recommended."""
AHEAD = 20.0
"""Seconds up to which a sweep for one image is worth another for its neighbours."""

What = Literal["influence", "detection", "relabel"]
_METHODS = {"influence": "influence", "detection": "mislabel_scores", "relabel": "label_influence"}
_WORDS = {"influence": "influence", "detection": "suspicion", "relabel": "suggestions"}


@dataclass(frozen=True)
class Question:
    """Something that an estimator can be asked, whose answer may be there, under way, or yet to be started.

    Attributes:
        study: of which it is asked.
        name: of the estimator.
        what: "influence" (of all training images on ``test``), "detection" (mislabel scores, judged) or "relabel".
        test: the test image, for "influence".
        request: the public method behind it, as the store knows it; ``None`` where none is called, or its answer
            cannot be kept.
        made: what a page shows, of the method's answer.
        refused: why its answer cannot be kept.
        task: of this server, under way or done; ``None`` where nothing was started here.
        job: of another process, under way, or ended before it was through.
        expected: what it will cost.
    """

    study: ic.Study
    name: str
    what: What
    test: int | None
    request: ic.store.Request | None
    made: Callable[[Any], Any] = lambda answer: answer
    refused: str = ""
    task: work.Task | None = None
    job: ic.jobs.Job | None = None
    expected: ic.estimators.Expected | None = None

    @property
    def answer(self) -> Any:
        """The result, or ``None`` while there is none."""
        return self.task.value if self.task is not None and self.task.state == "done" else None

    @property
    def under_way(self) -> bool:
        """Whether somebody is at it."""
        if self.job is not None:
            return self.job.row.under_way
        return self.task is not None and self.task.under_way

    @property
    def words(self) -> str:
        """What it is, for a person."""
        return f"{ic.estimators.get(self.name).title}: {_WORDS[self.what]}"

    def partial(self) -> ic.Scores | None:
        """The scores that a job has so far, of a part of the training images."""
        if self.job is None or self.request is None or not self.job.row.under_way:
            return None
        return stored.partial(self.request)

    def start(self, fills_in: bool = False, meeting: ic.gradients.Meeting | None = None) -> "Question":
        """Begin, whatever it costs; what takes long as a job, where another process can open the study.

        Args:
            fills_in: whether something else is what a person waits for.
            meeting: where it shares passes with others that begin now.

        Returns:
            The question, under way.
        """
        work.begin_again(_keys(self)[0])
        expected = self.expected or _expected(self)
        note = self.refused
        if self.request is not None and (expected.seconds is None or expected.seconds > IN_SERVER):
            try:
                return replace(self, job=stored.submit(self.request, first=not fills_in))
            except ic.NotSupported as error:
                note = f"It ends with this server: {error}"
        task = work.ask(_keys(self)[0], lambda: _computed(self, meeting), self.words, expected.seconds, fills_in, note)
        return replace(self, task=task)


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
    quick = [name for name in names if _only_passes(choice.study, name)] if len(names) > 1 else []
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
    what: What,
    test: int | None = None,
    fills_in: bool = False,
    meeting: ic.gradients.Meeting | None = None,
) -> Question:
    """Ask an estimator with its default settings; what is quick begins by itself.

    Args:
        choice: the study, and which estimators a person chose.
        name: lower-case name of the estimator.
        what: "influence" or "detection"; see ``suggestions`` for "relabel".
        test: id of the test image.
        fills_in: whether something else is what a person waits for.
        meeting: where it shares passes with others that begin now.

    Returns:
        The question with its answer, or with where it is.
    """
    request, refused = stored.request(choice.study, name, _METHODS[what], test)
    question = Question(choice.study, name, what, test, request, refused=refused)
    if what == "detection":
        question = replace(question, made=lambda scores: _judged(choice.study, scores))
    return _asked(choice, question, fills_in, meeting)


def suggestions(choice: Choice, name: str, detection: ic.applications.Detection) -> Question:
    """The relabel table of all training images; its flags are those of ``detection``, see ``flagged``."""
    study = choice.study

    def table(labels: ic.Scores | None) -> pd.DataFrame:
        if labels is None:
            return ic.applications.relabel_table(study, detection.scores, study.predictions("train"))
        return ic.applications.relabel_table(study, detection.scores, *ic.applications.suggestions(labels))

    request, refused = None, ""
    if "label_influence" in ic.estimators.get(name).gives():
        request, refused = stored.request(study, name, "label_influence")
    return _asked(choice, Question(study, name, "relabel", None, request, table, refused), False, None)


def flagged(table: pd.DataFrame, detection: ic.applications.Detection) -> pd.DataFrame:
    """A relabel table with the flags of another cut."""
    mine = torch.zeros(len(table), dtype=torch.bool)
    mine[detection.flagged] = True
    return table.assign(is_label_issue=mine[torch.from_numpy(table["index"].to_numpy(copy=True))].numpy())


def ahead(study: ic.Study, name: str, test: int) -> None:
    """Compute the mistakes next to one on show as well, while nobody waits: a click on them is answered at once."""
    fresh = ic.estimators.get(name)
    block = tuple(_block(study, test))
    key = _key(study, name, "influence", block)
    if fresh.solves_each_query or len(block) < 2 or work.has(key):
        return
    request = stored.request(study, name, "influence", block)[0]
    if request is None or stored.find(request) is not None:
        return
    expected = ic.estimators.expected_cost(study, fresh, "influence", len(block), fitted=True)
    if expected.seconds is not None and expected.seconds <= AHEAD:
        words = f"{fresh.title}: the next mistakes"
        task = work.ask(key, lambda: stored.compute(request), words, expected.seconds, fills_in=True)
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


def _asked(choice: Choice, question: Question, fills_in: bool, meeting: ic.gradients.Meeting | None) -> Question:
    """The question with its answer, or with where it is; what is quick begins."""
    limit = AT_ONCE if question.name in choice.picked.estimators else BY_DEFAULT
    keys = _keys(question)
    for number, key in enumerate(keys):
        task = work.peek(key)
        if task is not None and (number == 0 or task.state == "done"):  # alone it is quicker than with its neighbours
            return replace(question, task=task)
    if work.was_stopped(keys[0]):
        return replace(question, task=work.Task((), "", lambda: None, state="stopped"))
    if question.request is not None:
        found = stored.find(question.request)
        if found is not None:
            if question.what == "influence":
                return replace(question, task=work.keep(keys[0], found, question.words))
            task = work.ask(keys[0], lambda: question.made(found), question.words, fills_in=fills_in)
            return replace(question, task=task)
        job = stored.job(question.request)
        if job is not None:
            return replace(question, job=job)
    expected = _expected(question)
    question = replace(question, expected=expected)
    if expected.seconds is None or expected.seconds > limit:
        return question
    return question.start(fills_in, meeting)


def _expected(question: Question) -> ic.estimators.Expected:
    if question.request is None and not question.refused:
        return ic.estimators.Expected(0.0, 0.0, 0.0, "none")
    request = question.request
    fitted = request is not None and (work.has(stored.fit_key(request)) or stored.store().fitted(request))
    fresh = ic.estimators.get(question.name)
    return ic.estimators.expected_cost(question.study, fresh, _METHODS[question.what], fitted=fitted)


def _computed(question: Question, meeting: ic.gradients.Meeting | None) -> Any:
    with meeting.joined() if meeting is not None else nullcontext():
        if question.request is not None:
            answer: Any = stored.compute(question.request)
        elif question.refused:
            fitted = ic.estimators.get(question.name).fit(question.study)
            given = () if question.test is None else ([question.test],)
            answer = getattr(fitted, _METHODS[question.what])(*given)
        else:
            answer = None
    return question.made(answer)


def _judged(study: ic.Study, scores: ic.Scores) -> ic.applications.Detection:
    found = ic.applications.detect(study, scores)
    _ = found.bands, found.probabilities  # with the curves, not when they are drawn
    return found


def _keys(question: Question) -> list[tuple[Any, ...]]:
    """Where the answer is kept: alone, or with the neighbours of the test image."""
    study, name, what, test = question.study, question.name, question.what, question.test
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
