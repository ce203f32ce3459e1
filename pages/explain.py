"""Browse the model's mistakes, and the training images behind each, under up to four estimators."""

import plotly.graph_objects as go
import streamlit as st
from parts import codes, errors, frame, panels, selection
from streamlit.delta_generator import DeltaGenerator

import influence_core as ic

MOST = 2000

choice: frame.Choice = st.session_state["choice"]
study, picked = choice.study, choice.picked
names = study.class_names
shown = panels.mistakes(study, picked.label, picked.cell)
test_id = panels.current(choice)
together = len(choice.explainers) > 1


def square() -> None:
    """A click on a square shows its images; a click on the chosen one shows all again."""
    points = st.session_state["matrix"]["selection"]["points"]
    cell = tuple(int(n) for n in points[0]["customdata"][:2]) if points else None
    selection.change(cell=None if cell in (None, picked.cell) else f"{cell[0]},{cell[1]}")


@st.cache_resource(max_entries=64, show_spinner=False)
def drawn(fingerprint: str, label: int | None, cell: tuple[int, int] | None, _study: ic.Study) -> go.Figure:
    """The matrix, drawn once for all tabs."""
    matrix = ic.figures.confusion_matrix(_study, most=codes.matrix_classes(_study), label=label, selected=cell)
    return matrix.update_layout(height=280)


def matrix() -> None:
    """Labels against predictions."""
    st.plotly_chart(
        drawn(study.fingerprint, picked.label, picked.cell, study),
        on_select=square,
        selection_mode="points",
        key="matrix",
        config={"displayModeBar": False},
    )


def list_of_mistakes() -> None:
    """The squares of the matrix as a list that can be searched."""
    pairs = ic.evaluation.confusions(study, label=picked.label)
    cells = list(zip(pairs["label"].tolist(), pairs["predicted"].tolist(), strict=True))
    counts = dict(zip(cells, pairs["count"].tolist(), strict=True))
    if picked.cell is not None and picked.cell not in counts:
        cells.insert(0, picked.cell)
        counts[picked.cell] = len(shown)
    st.session_state["confusion"] = picked.cell

    def words(cell: tuple[int, int]) -> str:
        return f"{errors.plain(names[cell[0]], 30)} → {errors.plain(names[cell[1]], 30)} · {counts[cell]:,}"

    def chosen() -> None:
        cell = st.session_state["confusion"]
        selection.change(cell=None if cell is None else f"{cell[0]},{cell[1]}")

    st.selectbox(
        "Mistakes",
        cells,
        index=None,
        key="confusion",
        format_func=words,
        on_change=chosen,
        placeholder=f"all {sum(counts.values()):,}",
        help="Label → prediction, the most frequent first. Type to search; or click a square of the matrix.",
    )


def side_box() -> None:
    """How many training images."""
    st.session_state["k"] = picked.k
    st.number_input(
        "On each side",
        1,
        selection.MOST_IMAGES,
        key="k",
        on_change=lambda: selection.change(k=st.session_state["k"]),
        help="How many harmful and how many helpful training images.",
    )


def browse(height: int, columns: int | None = None) -> None:
    """The mistakes, to choose from."""
    if not len(shown):
        if picked.cell is None and picked.label is None:
            st.info("The model makes no mistake. Choose any test image by its id.", icon=":material/check:")
        else:
            where = "images in this square" if picked.cell is not None else "mistakes in this class"
            st.info(f"No {where}. Choose another, or any test image by its id.", icon=":material/check:")
    panels.browser(study, shown[:MOST], test_id, height, columns)
    if len(shown) > MOST:
        st.caption(f"the first {MOST:,} of {len(shown):,}: choose a class or a square")


def image_box() -> None:
    """Any test image, by its id."""
    panels.test_box(study, test_id)


def what_if() -> None:
    """The way on."""
    frame.link(
        "what-if", "What if the harmful ones were left out?", ":material/model_training:", set="harmful", test=test_id
    )


def python(place: DeltaGenerator, test: int, found: ic.applications.Detection | None) -> None:
    """The code and the link, once it is known whose flags are shown."""
    with place:
        frame.share(choice, codes.explain(choice, test, found), "explain")


frame.heading(
    "Explain",
    f"{len(study.misclassified()):,} of {len(study.test):,} test images are misclassified. "
    "Choose one to see the training images behind it.",
)
if any("test image" in note for note in picked.notes) and test_id is not None:
    st.caption(f"Showing test image {test_id}, the model's surest mistake.")
# what is waited for is drawn, and sent, before what stands beside it
if together:  # the picker is a strip, so that the rows have the page
    strip, picker = st.container(), st.container()
    if test_id is not None:
        left, right = st.columns([1, 7], gap="small")
        with left:
            panels.card(study, test_id)
            panels.surest(study, test_id, "  \n")
        with right:
            there, found = panels.explanation(choice, test_id, choice.explainers, picked.k, "explain")
    with strip:
        columns = st.columns([3, 2, 2, 2, 2], vertical_alignment="bottom", gap="small")
        for column, draw in zip(columns, (list_of_mistakes, image_box, side_box), strict=False):
            with column:
                draw()
        with columns[3].popover("Matrix", icon=":material/grid_on:", width="stretch"):
            matrix()
        if test_id is not None:
            python(columns[4], test_id, found)
    with picker:
        browse(height=142)
    if test_id is not None:
        panels.tables(choice, there, test_id, picked.k)
        what_if()
else:
    left, right = st.columns([2, 5], gap="medium")
    with right:
        face, controls = st.columns([1, 4], gap="medium", vertical_alignment="center")
        with controls:
            places = st.columns(3, vertical_alignment="bottom")
            for place, draw in zip(places, (image_box, side_box), strict=False):
                with place:
                    draw()
        if test_id is not None:
            with face:
                panels.card(study, test_id, size=120)
            with controls:
                panels.surest(study, test_id)
            there, found = panels.explanation(choice, test_id, choice.explainers, picked.k, "explain")
            python(places[2], test_id, found)
    with left:
        list_of_mistakes()
        matrix()
        browse(height=330, columns=3)
    if test_id is not None:
        with right:
            panels.tables(choice, there, test_id, picked.k)
            what_if()
