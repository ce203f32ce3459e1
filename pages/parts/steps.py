"""Work that goes beyond an answer of an estimator: a thread of this server does it, once for all tabs."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import streamlit as st

import influence_core as ic
from parts import errors, stored, work

KEPT = (
    "It ends a while after the last page that shows it is closed, and when this server ends. Finished trainings are "
    "kept, so that the same button goes on from there."
)
"""What is true of trainings here: they are no job."""
LOST = "Nobody could say later what this study's numbers belong to, so that they are lost when this server ends."
"""Where nothing can be kept."""


@dataclass(frozen=True)
class Step:
    """Something to do.

    Attributes:
        key: what the result depends on, whole.
        what: a few words for a person; they begin the sentences.
        make: does it.
        seconds: expected; ``None`` where nobody knows.
        note: a sentence for a person while it is under way.
    """

    key: Hashable
    what: str
    make: Callable[[], Any]
    seconds: float | None = None
    note: str = ""

    def start(self) -> work.Task:
        """Begin, or go on."""
        work.begin_again(self.key)
        seconds = stored.PATIENCE if self.seconds is None else self.seconds
        return work.ask(self.key, self.make, self.what, seconds, note=self.note, patience=stored.PATIENCE)


def done(step: Step, key: str, button: str, words: str, by_itself: bool = False) -> Any:
    """The result of a step; while there is none, where it is or how to begin it is drawn here.

    Args:
        step: what to do.
        key: of the place, once on a page.
        button: what the button says that begins it.
        words: Markdown beside the button.
        by_itself: whether it begins without a click.

    Returns:
        The result, or ``None``.
    """
    task = work.peek(step.key)
    if task is None and by_itself and not work.was_stopped(step.key):
        task = step.start()
    if task is not None:
        work.wait([task])
    if task is not None and task.state == "done":
        return task.value
    if task is not None and task.under_way:
        work.pending(task, key)
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
