"""Work that goes beyond an answer of an estimator: done by a thread of this server, or by a job where it is long."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

import influence_core as ic
from parts import errors, jobs_table, results, selection, stored, underway, work

_KEPT = "Finished trainings are kept: whoever goes on, or asks again, trains only what is missing."
JOB = (
    "Where another process can open the study this becomes a job, which goes on when this page is closed and when this "
    f"server ends, and which the page Jobs shows. {_KEPT}"
)
"""What is true of trainings that take long."""
HERE = f"It ends a while after the last page that shows it is closed, and when this server ends. {_KEPT}"
"""What is true of trainings in this server."""
LOST = "Nobody could say later what this study's numbers belong to, so that they are lost when this server ends."
"""Where nothing can be kept."""


@dataclass(frozen=True)
class Step:
    """Something to do.

    Attributes:
        key: what the result depends on, whole.
        what: a few words for a person; they begin the sentences.
        make: does it; where all trainings are stored, it trains nothing.
        seconds: expected; ``None`` where nobody knows.
        note: a sentence for a person while it is under way.
        trainings: that it needs; ``None`` where it needs none, or they cannot be kept.
        page: path of the page that shows it, for the list of jobs.
    """

    key: Hashable
    what: str
    make: Callable[[], Any]
    seconds: float | None = None
    note: str = ""
    trainings: ic.store.Trainings | None = None
    page: str = ""

    @property
    def takes_long(self) -> bool:
        """Whether it is work for another process."""
        return self.trainings is not None and (self.seconds is None or self.seconds > results.IN_SERVER)

    def start(self) -> None:
        """Begin, or go on: as a job what trains for long, where another process can open the study."""
        work.begin_again(self.key)
        note = self.note
        if self.trainings is not None and self.takes_long:
            origin = {jobs_table.PAGE: self.page, **selection.current()}
            try:  # a person may go away meanwhile, and what others look at comes first
                stored.submit(replace(self.trainings, origin=origin), first=False, keep=True)
                return
            except ic.NotSupported as error:
                note = f"It ends with this server: {error}"
        self.begin_here(note)

    def begin_here(self, note: str = "") -> work.Task:
        """Let a thread of this server do it."""
        seconds = stored.PATIENCE if self.seconds is None else self.seconds
        return work.ask(self.key, self.make, self.what, seconds, note=note, patience=stored.PATIENCE)

    def job(self) -> ic.jobs.Job | None:
        """The job that makes its trainings, unless it is through."""
        return None if self.trainings is None else stored.job(self.trainings)


def ready(step: Step) -> Any:
    """The result of a step, where it is there, or all that it trains is; else ``None``, and nothing is drawn."""
    task = _there(step)
    return task.value if task is not None and task.state == "done" else None


def _there(step: Step) -> work.Task | None:
    """The task of this server, which begins where all that the step trains is there."""
    task = work.peek(step.key)
    stored_whole = step.trainings is not None and stored.whole(step.trainings)
    if task is None and stored_whole and not work.was_stopped(step.key):
        task = step.begin_here()
    work.wait([] if task is None else [task])
    return task


def done(step: Step, key: str, button: str, words: str, by_itself: bool = False) -> Any:
    """The result of a step; while there is none, where it is or how to begin it is drawn here.

    Args:
        step: what to do.
        key: of the place, once on a page.
        button: what the button says that begins it.
        words: Markdown beside the button.
        by_itself: whether it begins without a click; it does so, too, where all that it trains is there.

    Returns:
        The result, or ``None``.
    """
    task = _there(step)
    if task is None and by_itself and not work.was_stopped(step.key):
        step.start()
        task = work.peek(step.key)
        work.wait([] if task is None else [task])
    if task is not None and task.state == "done":
        return task.value
    if task is not None and task.under_way:
        work.pending(task, key)
        return None
    if task is None and step.trainings is not None and (job := step.job()) is not None:
        underway.show(job, step.trainings, None, key)
        return None
    again = "Try again"
    with st.container(horizontal=True, vertical_alignment="center", key=f"step_{key}"):
        if task is None or task.error is None:
            stopped = work.was_stopped(step.key)
            again = "Go on" if stopped else button
            st.markdown(f"{errors.as_text(step.what)} was stopped." if stopped else words)
        elif isinstance(task.error, ic.InfluenceError):
            errors.show(task.error)
        else:
            st.error(
                f"{errors.as_text(step.what)} failed ({type(task.error).__name__}). The server's log has the details."
            )
        if st.button(again, key=f"do_{key}", icon=":material/play_arrow:", type="primary"):
            work.forget(step.key)
            step.start()
            st.rerun()
    return None


def takes(step: Step) -> str:
    """How long a step that trains takes, in a sentence."""
    if step.seconds is None:
        return "Nobody knows how long that takes."
    return f"That takes {'a moment' if step.seconds < 1 else f'about {ic.progress.duration(step.seconds)}'}."


def fate(step: Step) -> str:
    """What becomes of a step that trains where its page is closed, and what is kept of it."""
    if step.trainings is None:
        return LOST
    task = work.peek(step.key)
    if task is not None and task.under_way:
        return HERE
    if step.job() is not None:
        return _KEPT
    return JOB if step.takes_long else HERE
