"""The frame around every page: links, selectors, headings, and the Python and the link that make what is shown."""

from dataclasses import dataclass
from functools import partial

import streamlit as st

import influence_core as ic
from parts import errors, selection, stored, studies
from parts.selection import Selection

ALL = "all classes"
JOBS = "jobs"
"""Path of the page that is about no study."""
PAGES = {
    "": ("overview.py", "Overview", ":material/home:"),
    "explain": ("explain.py", "Explain", ":material/quick_reference_all:"),
    "mislabels": ("mislabels.py", "Mislabels", ":material/flag:"),
    "relabel": ("relabel.py", "Relabel", ":material/edit_note:"),
    "what-if": ("what_if.py", "What if", ":material/model_training:"),
    JOBS: ("jobs.py", "Jobs", ":material/manufacturing:"),
}
"""Path -> file, title and icon."""
PURPOSE = {
    "": "influence",
    "explain": "influence",
    "mislabels": "mislabel_scores",
    "relabel": "mislabel_scores",
    "what-if": "influence",
}
"""Path of a page -> what it asks of an estimator."""
_REFUSED = "refused_study"
"""In the session: why the path that was given last could not be opened."""

_GROUPS = {
    "explains and detects": "Explain mistakes and find wrong labels",
    "explains": "Explain mistakes",
    "detects": "Find wrong labels",
}


@dataclass(frozen=True)
class Choice:
    """What all pages are about.

    Attributes:
        study: shared by all tabs.
        code: Python that makes the study.
        picked: what the URL says.
        explainers: estimators that explain a test image, one at least.
        detectors: estimators that find wrong labels, one at least; the first decides which images are flagged.
        notes: what to tell about estimators that were chosen and cannot answer here.
    """

    study: ic.Study
    code: str
    picked: Selection
    explainers: tuple[str, ...]
    detectors: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> int | None:
        """The class to show, or ``None`` for all."""
        return self.picked.label


def open_run(wipe: bool = True) -> tuple[str, ic.Study, str, list[str]]:
    """Open the study that the URL names.

    Args:
        wipe: say what is being opened in place of what was shown before.

    Returns:
        Its key, the study, Python that makes it, and what to tell about the URL.
    """
    known = studies.sources()
    run, notes = selection.read_run(st.query_params.to_dict(), list(known))
    if studies.is_loaded(run):
        return run, studies.study(run), known[run].code, notes
    with st.spinner(f"Opening the study {errors.name(run)} …"):
        return run, studies.study(run), known[run].code, notes


def links() -> None:
    """The pages, in the sidebar; every link takes the selection along."""
    for file, title, icon in PAGES.values():
        st.page_link(file, label=title, icon=icon, query_params=selection.current(), width="stretch")


def study_box(run: str) -> None:
    """The study to show."""
    st.session_state["run"] = run
    known = list(studies.sources())
    st.selectbox(
        "Study",
        known,
        key="run",
        format_func=errors.plain,
        on_change=lambda: selection.change(run=st.session_state["run"]),
    )


def choose(study: ic.Study, code: str, picked: Selection, path: str) -> Choice:
    """What the estimators chosen can answer on this study; where none can, the best by evidence does.

    Args:
        study: the study.
        code: Python that makes it.
        picked: what the URL says.
        path: of the page, which decides what is told.

    Returns:
        The choice.
    """
    able: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    for what in ("influence", "mislabel_scores"):
        mine = []
        for name in picked.estimators:
            fresh = ic.estimators.get(name)
            lacks = fresh.missing(study, what) if what in fresh.gives() else None
            if lacks == []:
                mine.append(name)
            elif PURPOSE[path] == what:
                notes.append(_unable(fresh, what, lacks))
        if not mine:
            mine = [ic.estimators.recommended(study, what, there=partial(stored.has, study, what))]
            if picked.estimators and PURPOSE[path] == what:
                notes.append(f"Here is {ic.estimators.get(mine[0]).title}, which does.")
        able[what] = tuple(mine)
    return Choice(study, code, picked, able["influence"], able["mislabel_scores"], (" ".join(notes),) if notes else ())


def _unable(fresh: ic.estimators.Estimator, what: str, lacks: list[str] | None) -> str:
    does = {"influence": "explains no test image", "mislabel_scores": "finds no wrong labels"}[what]
    if lacks:
        return f"{fresh.title} {does} on this study: that needs {' and '.join(lacks)}."
    return f"{fresh.title} {does}: {fresh.reasons.get(what, 'its theory does not define it')}."


def estimator_box(choice: Choice, path: str) -> None:
    """The estimators to ask, up to four; what holds by itself is shown, and is not part of the URL."""
    kinds = {c.name: c for c in selection.shown_estimators()}
    shown = choice.picked.estimators or (choice.explainers if PURPOSE[path] == "influence" else choice.detectors)
    st.session_state["estimators"] = list(shown)

    def title(name: str) -> str:
        gives = kinds[name].gives()
        only = "" if "influence" in gives else " · detects"
        return kinds[name].title + (only if "mislabel_scores" in gives else " · explains")

    def choose_these() -> None:
        selection.change(estimator=",".join(st.session_state["estimators"]) or None)

    st.multiselect(
        "Estimators",
        list(kinds),
        key="estimators",
        format_func=title,
        max_selections=selection.MOST_ESTIMATORS,
        on_change=choose_these,
        placeholder="the best by evidence",
        help="The methods that answer, side by side: up to four. Empty: the one that measurements favour here.",
    )
    for name in shown:
        st.caption(f"**{errors.as_text(kinds[name].title)}** · {errors.as_text(kinds[name].good_for)}")


def estimator_list(choice: Choice) -> None:
    """All estimators in groups, each with what it is good for and what it needs."""
    with st.popover("What is each good for?", icon=":material/help:", width="stretch"):
        st.markdown(_listed(choice.study.fingerprint, choice.study))


@st.cache_data(max_entries=16, show_spinner=False)
def _listed(fingerprint: str, _study: ic.Study) -> str:
    """The list as Markdown."""
    table = ic.estimators.available()
    lines = []
    for group, words in _GROUPS.items():
        lines.append(f"\n**{words}**\n")
        for row in table[table["group"] == group].to_dict("records"):
            fresh = ic.estimators.get(row["name"])
            lacks = fresh.missing(_study, "influence" if "influence" in fresh.gives() else "mislabel_scores")
            needs = f" *Not here: it needs {' and '.join(lacks)}.*" if lacks else ""
            named = f"{errors.as_text(row['title'])}**, {errors.as_text(row['paper'])}"
            lines.append(f"- **{named}. {errors.as_text(row['good_for'])}.{needs}")
    return "\n".join(lines)


def class_box(study: ic.Study, picked: Selection) -> None:
    """The class to show."""
    st.session_state["class"] = ALL if picked.label is None else picked.label
    names = study.class_names

    def chosen() -> None:
        value = st.session_state["class"]
        selection.change(**{"class": None if value == ALL else names[value]})

    st.selectbox(
        "Class",
        [ALL, *range(len(names))],
        key="class",
        format_func=lambda k: k if isinstance(k, str) else errors.plain(names[k]),
        on_change=chosen,
        help="Only images of this class, in galleries and figures. Type to search.",
    )


def open_study() -> None:
    """A way to bring one's own model: the path of a study file on the server's disk."""
    with st.popover("Use my model", icon=":material/folder_open:", width="stretch"):
        st.markdown("Write your study once in a notebook, then open it here:")
        st.code('ic.Study(model, train=..., test=...).save("my_study")', language="python")
        with st.form("open_study", border=False):
            path = st.text_input("Path of study.toml, or its folder", placeholder="my_study")
            if st.form_submit_button("Open", type="primary") and path:
                st.session_state.pop(_REFUSED, None)
                try:
                    key = studies.add(path)
                    studies.study(key)
                except ic.InfluenceError as error:
                    st.session_state[_REFUSED] = error  # the page may be drawn again before anybody has read it
                else:
                    selection.change(run=key)
                    st.rerun()
            if _REFUSED in st.session_state:
                errors.show(st.session_state[_REFUSED])


def heading(title: str, lead: str) -> None:
    """The title of a page and one sentence that says what it is for."""
    st.title(title, anchor=False)
    st.markdown(lead)


def share(choice: Choice, lines: str, key: str) -> None:
    """A button that shows what makes the panel beside it: lines of ``influence_core``, and a link.

    Args:
        choice: the study that the lines begin with.
        lines: what follows after ``study`` is there.
        key: of the panel.
    """
    with st.popover("Python and link", icon=":material/code:", key=f"python_{key}"):
        st.code(f"import influence_core as ic\n\nstudy = {choice.code}\n{lines.strip()}\n", language="python")
        st.caption("The same in a notebook. And a link to what is shown:")
        st.code(selection.link(), language=None, wrap_lines=True)


def link(path: str, label: str, icon: str, **more: object) -> None:
    """A link to another page, with the selection as it is, and what ``more`` says of it."""
    query = selection.current() | {key: str(value) for key, value in more.items()}
    st.page_link(PAGES[path][0], label=label, icon=icon, query_params=query)


def budget(choice: Choice) -> str:
    """Python that cuts a detection where the selection does; Otsu's threshold holds by itself."""
    return "" if choice.picked.flag is None else f".budget({choice.picked.flag})"


def fit_line(name: str, variable: str = "estimator") -> str:
    """Python that fits the estimator called ``name``."""
    return f"{variable} = ic.estimators.{type(ic.estimators.get(name)).__name__}().fit(study)"
