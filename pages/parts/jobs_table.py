"""The table of jobs, and where the answer of one is shown."""

import json
import shlex
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

import influence_core as ic
from parts import errors, frame, studies, underway

ICONS = {
    "queued": ":material/hourglass_empty:",
    "running": ":material/play_circle:",
    "done": ":material/check_circle:",
    "failed": ":material/error:",
    "cancelled": ":material/stop_circle:",
    "lost": ":material/help:",
}
MOST = 500
"""Jobs in the table."""
PAGE = "page"
"""In the origin of trainings: path of the page that asked, beside the parameters of its URL."""
_PAGES = {"influence": "explain", "mislabel_scores": "mislabels", "label_influence": "relabel"}
"""Public method -> page that shows its answer."""


def ordered(rows: Sequence[ic.jobs.Row]) -> list[ic.jobs.Row]:
    """Running and waiting jobs first, then the newest."""
    rank = {"running": 0, "queued": 1}
    return sorted(rows, key=lambda row: (rank.get(row.state, 2), -row.number))[:MOST]


def draw(rows: Sequence[ic.jobs.Row], chosen: ic.jobs.Row, clicked: Callable[[], None]) -> None:
    """The table.

    Args:
        rows: the jobs in order.
        chosen: the one that is shown below.
        clicked: called when a line is chosen.
    """
    table = pd.DataFrame(
        {
            "": ["▸" if row.id == chosen.id else "" for row in rows],
            "state": [row.state for row in rows],
            "what": [row.title for row in rows],
            "study": [study_name(row) for row in rows],
            "progress": [100 if row.state == "done" else int(100 * underway.share(row)) for row in rows],
            "left": [ic.progress.duration(row.seconds_left) if row.seconds_left else "" for row in rows],
            "started": [_moment(row.begun or row.created) for row in rows],
            "took": [_took(row) for row in rows],
        }
    )
    st.dataframe(
        table,
        hide_index=True,
        key="jobs_table",
        on_select=clicked,
        selection_mode="single-row",
        column_config={
            "": st.column_config.TextColumn("", width=24),
            "state": st.column_config.TextColumn("state", width=85),
            "what": st.column_config.TextColumn("what", width=300),
            "study": st.column_config.TextColumn("study", width=90),
            "progress": st.column_config.ProgressColumn("progress", max_value=100, format="%d %%", width=125),
            "left": st.column_config.TextColumn("time left", width=75),
            "started": st.column_config.DatetimeColumn("started", format="distance", width=125),
            "took": st.column_config.TextColumn("took", width=65),
        },
    )


def facts(row: ic.jobs.Row) -> str:
    """What else is known of a job, in a line."""
    words = [f"job {row.id[:12]}", f"study {study_name(row)}"]
    if row.begun:
        words.append(f"begun {datetime.fromtimestamp(row.begun).astimezone():%Y-%m-%d %H:%M:%S}")
    if row.attempt > 1:
        words.append(f"attempt {row.attempt}")
    if took := _took(row):
        words.append(f"took {took}" if row.ended else f"for {took}")
    if row.under_way and not row.keep:
        words.append("ends where no page asks for it any more")
    return " · ".join(words)


def study_name(row: ic.jobs.Row) -> str:
    """The study's name in the URL where it is open here, else its folder's."""
    file = Path(row.study)
    return errors.plain(studies.named(file, _spec(row).get("study", "")) or file.parent.name)


def open_link(row: ic.jobs.Row) -> None:
    """A link to the page that shows the answer, where there is one."""
    place, run = _place(row), _run(row)
    if run is None or place is None:
        return
    path, query = place
    link = {**query, "run": run}
    st.page_link(frame.PAGES[path][0], label="Open", icon=":material/open_in_new:", query_params=link)


def elsewhere(row: ic.jobs.Row) -> None:
    """Where the answer is to be had, if no page of this server shows it."""
    if _place(row) is not None:
        if _run(row) is None:
            st.caption("This server does not have the study open. A terminal opens it:")
            st.code(f"influence app {shlex.quote(str(Path(row.study).parent))}", language=None, wrap_lines=True)
        return
    st.caption("No page shows this answer. Python does:")
    st.code(f"ic.jobs.get({row.id[:12]!r}).wait()", language=None)


def _place(row: ic.jobs.Row) -> tuple[str, dict[str, str]] | None:
    """Path of the page that shows the answer, and what it is asked there; ``None`` where no page shows it."""
    spec = _spec(row)
    origin = {str(key): str(value) for key, value in spec.get("origin", {}).items()}
    if (page := origin.pop(PAGE, "")) in frame.PAGES and origin:
        return page, origin
    path = _PAGES.get(spec.get("what", ""))
    if path is None or not _shown(spec):
        return None
    test = {"test": str(spec["test"][0])} if spec.get("test") else {}
    return path, {"estimator": spec["estimator"], **test}


def _run(row: ic.jobs.Row) -> str | None:
    return studies.named(Path(row.study), _spec(row).get("study", ""))


def _shown(spec: dict[str, Any]) -> bool:
    """Whether it is asked as the pages ask: of an estimator that is known here, with its default settings."""
    known = {one.name: one for one in ic.estimators.all_estimators()}
    if spec.get("estimator") not in known:
        return False
    usual = known[spec["estimator"]]().get_params()
    return all(not isinstance(value, dict) and usual.get(name) == value for name, value in spec["parameters"].items())


def _spec(row: ic.jobs.Row) -> dict[str, Any]:
    return dict(json.loads(row.spec))


def _moment(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def _took(row: ic.jobs.Row) -> str:
    if not row.begun:
        return ""
    return ic.progress.duration(max(0.0, (row.ended or time.time()) - row.begun))
