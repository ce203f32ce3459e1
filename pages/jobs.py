"""Work of other processes, whoever asked for it, and what is stored."""

import streamlit as st
from parts import errors, frame, jobs_table, store_panel, stored, underway

import influence_core as ic

POLL = 2.0  # seconds between two looks while something runs
EMPTY = (
    "No jobs yet. What takes longer than a few seconds becomes a job: a process of its own, which goes on when the "
    "browser or this server ends, and whose finished parts are kept whatever happens. Explain, Mislabels, Relabel "
    "and What if start one where an estimator or a training takes its time; so do a notebook and, without the "
    "exclamation mark, a terminal:"
)
EXAMPLE = """job = ic.jobs.submit(study, "ekfac", "influence", test=[17])  # and job.wait() gives the scores
!influence score my_study ekfac --what influence --test 17 --job"""

store = stored.store()


def ended(rows: list[ic.jobs.Row]) -> list[ic.jobs.Row]:
    """The jobs that can be forgotten."""
    return [row for row in rows if not row.under_way]


def chosen(rows: list[ic.jobs.Row]) -> ic.jobs.Row:
    """The job that the URL names, or the first; one that is not there is told."""
    name = st.query_params.get("job", "").lower()
    found = [row for row in rows if name and row.id.startswith(name)]
    if name and len(found) != 1:
        what = f"{len(found)} jobs begin" if found else "There is no job in this store that begins"
        short = errors.as_text(name if len(name) <= 40 else f"{name[:39]}…")
        st.warning(f"{what} with “{short}”. Choose one in the table.", icon=":material/link_off:")
    return found[0] if len(found) == 1 else rows[0]


def clicked(rows: list[ic.jobs.Row]) -> None:
    """A click on a line shows that job."""
    lines = st.session_state["jobs_table"]["selection"]["rows"]
    if lines:
        st.query_params["job"] = rows[lines[0]].id[:12]
    elif "job" in st.query_params:
        del st.query_params["job"]


def remove(row: ic.jobs.Row) -> None:
    """Forget one job."""
    clear([row])
    st.query_params.pop("job", None)


def clear(rows: list[ic.jobs.Row]) -> None:
    """Forget jobs that have ended."""
    errors.refused(lambda: ic.jobs.clean(store, [row.id for row in rows]))


def detail(row: ic.jobs.Row) -> None:
    """One job, and what can be done with it."""
    job = ic.jobs.Job(store, row.id)
    with st.container(border=True, key="job_detail"):
        st.markdown(f"**{errors.as_text(row.title)}** · {jobs_table.ICONS[row.state]} {row.state}")
        if row.under_way:
            st.progress(underway.share(row), errors.as_text(underway.says(row)))
        elif row.error:
            show = st.info if row.state == "cancelled" else st.error
            show(errors.sentence(row.error), icon=":material/error:" if row.state != "cancelled" else ":material/info:")
        st.caption(errors.as_text(jobs_table.facts(row)))
        with st.container(horizontal=True, vertical_alignment="center"):
            jobs_table.open_link(row)
            if row.under_way:
                st.button(
                    "Cancel", key="cancel_job", icon=":material/stop_circle:", on_click=underway.cancel, args=(job,)
                )
            elif row.state != "done":
                st.button(
                    "Resume", key="resume_job", icon=":material/play_arrow:", on_click=underway.resume, args=(job,)
                )
            if not row.under_way:
                st.button("Remove", key="remove_job", icon=":material/delete:", on_click=remove, args=(row,))
        jobs_table.elsewhere(row)
        underway.log(job, opened=row.state in ("failed", "lost"))


def listed() -> bool:
    """All jobs, and one of them; whether any is under way."""
    rows = jobs_table.ordered(ic.jobs.rows(store))
    if not rows:
        if "job" in st.query_params:
            chosen_none = errors.as_text(st.query_params["job"][:40])
            st.warning(f"There is no job “{chosen_none}” in this store.", icon=":material/link_off:")
        st.info(errors.as_text(EMPTY), icon=":material/manufacturing:")
        st.code(EXAMPLE, language=None)
        return False
    one = chosen(rows)
    jobs_table.draw(rows, one, lambda: clicked(rows))
    below = st.container()  # there with and without the button, so that what follows keeps its place
    if over := ended(rows):
        below.button(
            f"Clear {len(over):,} that ended",
            key="clear_jobs",
            icon=":material/clear_all:",
            on_click=clear,
            args=(over,),
            help="From this list, with their logs. Results and finished parts stay.",
        )
    detail(one)
    return any(row.under_way for row in rows)


@st.fragment(run_every=POLL)
def polled() -> None:
    """The list while something runs."""
    if not listed():
        st.rerun()


frame.heading("Jobs", "Work that goes on without this browser: what runs, what waits, what has ended.")
try:
    if any(row.under_way for row in ic.jobs.rows(store)):
        polled()
    else:
        listed()
    st.divider()
    store_panel.draw(store)
except ic.InfluenceError as error:
    errors.show(error)
