"""A job on the page that asked for it: how far it is, what is there of it, how to end it and to go on."""

from typing import Any

import streamlit as st

import influence_core as ic
from parts import errors, frame, selection, stored

POLL = 1.0
"""Seconds between two looks at a job: it tells as often how far it is."""
SLOW = 5.0
"""The same at one that has ended."""
LINES = 40
"""Of the end of a log."""


def show(job: ic.jobs.Job, request: ic.store.Task, some: ic.Scores | None, key: str) -> None:
    """Draw a job that is not through; the page is drawn again once it is, and when the ranking so far is another one.

    Args:
        job: the job.
        request: what it is to answer or to do.
        some: the scores that it has so far.
        key: of the place, once on a page.
    """
    row = job.row
    if row.under_way or row.state == "done":
        _pending(job, request, some, key)
    else:
        _ended(job, request, row.state, key)


def _ended(job: ic.jobs.Job, request: ic.store.Task, state: str, key: str) -> None:
    @st.fragment(run_every=SLOW)  # another tab may go on with it, or remove it
    def look() -> None:
        try:
            row = job.row
        except ic.InfluenceError:
            st.rerun()
        if row.state != state:
            st.rerun()
        _draw_ended(job, row, request, key)

    look()


def _draw_ended(job: ic.jobs.Job, row: ic.jobs.Row, request: ic.store.Task, key: str) -> None:
    with st.container(horizontal=True, vertical_alignment="center", key=f"ended_{key}"):
        who = request.title if request.estimator is None else request.estimator.title
        words = "was stopped" if row.state == "cancelled" else "is not through"
        there = f" after {row.step}" if request.members and row.step else ""
        st.markdown(f"**{errors.as_text(who)}** {words}{there}.")
        st.button(
            "Resume", key=f"resume_{key}", icon=":material/play_arrow:", on_click=resume, args=(job,), type="primary"
        )
        link(job)
    if row.state != "cancelled":
        st.error(errors.sentence(row.error or "it ended before it was through"), icon=":material/error:")
        log(job)


def _pending(job: ic.jobs.Job, request: ic.store.Task, some: ic.Scores | None, key: str) -> None:
    shown = _ends(some)

    @st.fragment(run_every=POLL)
    def look() -> None:
        row = job.ask()
        if not row.under_way:
            st.rerun()
        now = stored.partial(request)
        if _ends(now) != shown:
            st.rerun()
        with st.container(horizontal=True, vertical_alignment="center", key=f"pending_{key}"):
            st.progress(share(row), errors.as_text(f"{row.title} · {says(row)}"))
            st.button(
                "Stop", key=f"stop_{key}", type="tertiary", icon=":material/stop_circle:", on_click=cancel, args=(job,)
            )
            link(job)
        if now is not None:
            part = round(100 * len(now.values) / len(request.study.train))
            st.caption(f"So far, of {part} % of the training images · {stored.steady(now, request)}")
        elif row.keep:
            st.caption("It goes on when this page is closed, and when the server ends.")
        elif row.state == "running":
            st.caption("It goes on for a while when this page is closed, and when the server ends.")

    look()


def _ends(scores: ic.Scores | None) -> Any:
    """The training images at both ends of a ranking."""
    if scores is None:
        return None
    column = scores.column()
    return [scores.train_ids[column.topk(stored.TOP, largest=side).indices].tolist() for side in (True, False)]


def cancel(job: ic.jobs.Job) -> None:
    """End a job, after a click."""
    errors.refused(job.cancel)


def resume(job: ic.jobs.Job) -> None:
    """Go on with a job, after a click."""
    errors.refused(job.resume)


def says(row: Any) -> str:
    """How far a job is, in words.

    Args:
        row: of the table of jobs.

    Returns:
        Such as "waiting · 12 of 600 · about 3 min left".
    """
    if row.state == "queued":
        return "waits for other jobs"
    if not row.step:
        return "its process starts"
    words = [] if row.step == row.title else [row.step]
    if counted := ic.progress.tally(row.step, row.done, row.total):
        words.append(counted)
    if row.seconds_left:
        words.append(f"about {ic.progress.duration(row.seconds_left)} left")
    return " · ".join(words) or "it runs"


def share(row: Any) -> float:
    """How much of what it does is done, 0 to 1."""
    return min(1.0, row.done / row.total) if row.total else 0.0


def link(job: ic.jobs.Job) -> None:
    """A link to a job on the page of jobs."""
    query = selection.current() | {"job": job.id[:12]}
    st.page_link(frame.PAGES[frame.JOBS][0], label="Job", icon=frame.PAGES[frame.JOBS][2], query_params=query)


def log(job: ic.jobs.Job, opened: bool = False) -> None:
    """The end of what a job's worker has said.

    Args:
        job: the job.
        opened: whether it is shown at once.
    """
    with st.expander("Log", icon=":material/subject:", expanded=opened):
        text = job.log(LINES)
        if text:
            st.code(text, language=None, wrap_lines=True)
        else:
            st.caption("It has said nothing.")
