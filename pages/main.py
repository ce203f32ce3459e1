"""Navigation, the selection that all pages share, and the panel of a picture."""

import time
from pathlib import Path

import streamlit as st

st.set_page_config(
    page_title="influence", page_icon=str(Path(__file__).parent.parent / "assets" / "icon.png"), layout="wide"
)

from parts import errors, frame, panels, selection, studies  # noqa: E402

import influence_core as ic  # noqa: E402

st.html(f"<style>{(Path(__file__).parent / 'parts' / 'app.css').read_text(encoding='utf-8')}</style>")
page = st.navigation(
    [
        st.Page(file, title=title, icon=icon, url_path=path or None, default=not path)
        for path, (file, title, icon) in frame.PAGES.items()
    ],
    position="hidden",
)
body = st.empty()
with st.sidebar:
    frame.links()
if page.url_path == frame.JOBS:  # about all studies, open here or not
    with body.container():
        errors.show_refused()
        page.run()
    st.stop()
try:
    asked = st.query_params.get("run", "")
    if st.session_state.get("shown", asked) != asked:
        body.empty()  # nothing of another study stays in sight while this one is opened
        time.sleep(
            0.15
        )  # or the browser gets this together with what comes next, and keeps the old until that is through
    with body.container():
        run, study, code, notes = frame.open_run()
    st.session_state["shown"] = asked
except ic.InfluenceError as error:
    with body.container():
        errors.show(error)
    with st.sidebar:
        frame.study_box(selection.read_run(st.query_params.to_dict(), list(studies.sources()))[0])
        frame.open_study()
    st.stop()
picked = selection.read(st.query_params.to_dict(), run, study)
choice = frame.choose(study, code, picked, page.url_path)
st.session_state["choice"] = choice
with st.sidebar:
    frame.study_box(run)
    frame.estimator_box(choice, page.url_path)
    frame.estimator_list(choice)
    frame.class_box(study, picked)
    frame.open_study()
with body.container():
    errors.show_refused()
    for note in (*notes, *picked.notes):
        st.warning(errors.as_text(note), icon=":material/link_off:")
    if studies.is_blank(run):
        st.info(
            "The samples of this study are no pictures, so that none are shown; labels, scores and tables are.",
            icon=":material/hide_image:",
        )
    for note in choice.notes:
        st.info(errors.as_text(note), icon=":material/info:")
    try:
        page.run()
    except ic.InfluenceError as error:
        errors.show(error)
if picked.image is not None:
    panels.picture(choice, *picked.image)
