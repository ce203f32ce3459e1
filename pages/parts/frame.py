"""The frame around every page: selectors, headings, and the Python that makes what is shown."""

from dataclasses import dataclass

import streamlit as st

import influence_core as ic
from parts import errors, studies

ALL = "all classes"


@dataclass(frozen=True)
class Choice:
    """What the sidebar says.

    Attributes:
        study: what every page is about, shared by all tabs.
        code: Python that makes the study.
        estimator: lower-case name.
        label: the class to show, or ``None`` for all.
    """

    study: ic.Study
    code: str
    estimator: str
    label: int | None


def sidebar() -> Choice:
    """Draw the selectors, all bound to the URL.

    Returns:
        What they say; the page stops here, with a message, if the study cannot be opened.
    """
    known = studies.sources()
    names = _estimators()
    with st.sidebar:
        key = st.selectbox("Study", list(known), key="run", bind="query-params")
        estimator = st.selectbox(
            "Estimator",
            names,
            key="estimator",
            bind="query-params",
            help="The method that answers. A page says so when a method cannot.",
        )
        kind = type(ic.estimators.get(estimator))
        answers = ["explains mistakes"] if "influence" in kind.gives() else []
        answers += ["finds mislabels"] if "mislabel_scores" in kind.gives() else []
        st.caption(f"{kind.title} · {kind.paper} · {' and '.join(answers)}")
    try:
        with st.sidebar:
            if studies.is_loaded(key):
                study = studies.study(key)
            else:
                with st.spinner("Opening the study …"):
                    study = studies.study(key)
    except ic.InfluenceError as error:
        errors.show(error)
        with st.sidebar:
            open_study()
        st.stop()
    with st.sidebar:
        shown = st.selectbox(
            "Class", [ALL, *study.class_names], key="class", bind="query-params", help="Only images of this class."
        )
        open_study()
    label = None if shown == ALL or shown not in study.class_names else study.class_names.index(shown)
    return Choice(study, known[key].code, estimator, label)


def _estimators() -> list[str]:
    """Names of those with scores to show: first TracIn, then those that explain mistakes, then the detectors."""
    kinds = ic.estimators.all_estimators()
    explain = [c.name for c in kinds if "influence" in c.gives() and c.name != ic.estimators.FIRST]
    detect = [c.name for c in kinds if "mislabel_scores" in c.gives() and "influence" not in c.gives()]
    return [ic.estimators.FIRST, *explain, *detect]


def open_study() -> None:
    """A way to bring one's own model: the path of a study file on the server's disk."""
    with st.popover("Use my model", icon=":material/folder_open:", width="stretch"):
        st.markdown("Write your study once in a notebook, then open it here:")
        st.code('ic.Study(model, train=..., test=...).save("my_study")', language="python")
        with st.form("open_study", border=False):
            path = st.text_input("Path of study.toml, or its folder", placeholder="my_study")
            if st.form_submit_button("Open", type="primary") and path:
                try:
                    key = studies.add(path)
                    studies.study(key)
                except ic.InfluenceError as error:
                    errors.show(error)
                else:
                    st.session_state["next_run"] = key
                    st.rerun()


def heading(title: str, lead: str) -> None:
    """The title of a page and one sentence that says what it is for."""
    st.title(title, anchor=False)
    st.markdown(lead)


def another_way(choice: Choice) -> None:
    """After a refusal: the page where the chosen estimator does answer.

    Links, not buttons: ``st.switch_page`` refuses to leave while the URL holds a selector.
    """
    kind = type(ic.estimators.get(choice.estimator))
    if "influence" not in kind.gives() and "mislabel_scores" in kind.gives():
        st.page_link("mislabels.py", label=f"**Find wrong labels with {kind.title}**", icon=":material/flag:")


def copy_as_python(choice: Choice, lines: str, key: str) -> None:
    """A button that shows the lines of ``influence_core`` that make the panel beside it.

    Args:
        choice: the study that the lines begin with.
        lines: what follows after ``study`` is there.
        key: of the panel.
    """
    with st.popover("Copy as Python", icon=":material/code:", key=f"python_{key}"):
        st.code(f"import influence_core as ic\n\nstudy = {choice.code}\n{lines.strip()}\n", language="python")


def fit_line(name: str) -> str:
    """Python that fits the estimator called ``name``."""
    return f"estimator = ic.estimators.{type(ic.estimators.get(name)).__name__}().fit(study)"
