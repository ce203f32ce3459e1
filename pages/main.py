"""Navigation and the selectors that all pages share."""

from pathlib import Path

import streamlit as st

st.set_page_config(
    page_title="influence", page_icon=str(Path(__file__).parent.parent / "assets" / "icon.png"), layout="wide"
)

from parts import errors, frame  # noqa: E402

import influence_core as ic  # noqa: E402

if "next_run" in st.session_state:  # a study was just opened; a widget's value can only be set before it is drawn
    st.session_state["run"] = st.session_state.pop("next_run")

st.html("<style>[data-testid=stMainBlockContainer]{padding-top:3.2rem;padding-bottom:3rem;max-width:1500px}</style>")
page = st.navigation(
    [
        st.Page("overview.py", title="Overview", icon=":material/home:", default=True),
        st.Page("explain.py", title="Explain", icon=":material/quick_reference_all:", url_path="explain"),
        st.Page("mislabels.py", title="Mislabels", icon=":material/flag:", url_path="mislabels"),
        st.Page("relabel.py", title="Relabel", icon=":material/edit_note:", url_path="relabel"),
    ]
)
st.session_state["choice"] = frame.sidebar()
try:
    page.run()
except ic.NotSupported as error:
    errors.show(error)
    frame.another_way(st.session_state["choice"])
except ic.InfluenceError as error:
    errors.show(error)
