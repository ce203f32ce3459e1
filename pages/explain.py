"""Browse the model's mistakes, and the training images behind each."""

import streamlit as st
from parts import frame, panels, results

import influence_core as ic

MOST = 300

choice: frame.Choice = st.session_state["choice"]
study = choice.study
wrong = panels.mistakes(study, choice.label)
default = int(wrong[0]) if len(wrong) else 0

frame.heading(
    "Explain",
    f"{len(study.misclassified())} of {len(study.test):,} test images are misclassified. "
    "Choose one to see the training images behind it.",
)


def choose(index: int) -> None:
    """Show another test image. The URL holds it: a bound widget would take it along when the page is left."""
    st.query_params["test"] = str(index)


def asked() -> int:
    """The test image that the URL names, or the model's surest mistake."""
    named = st.query_params.get("test", "")
    return int(named) if named.isdigit() and int(named) < len(study.test) else default


one, two, three = st.columns([2, 3, 3], vertical_alignment="bottom", gap="medium")
test_id = st.session_state["test"] = asked()
one.number_input(
    "Test image",
    0,
    len(study.test) - 1,
    key="test",
    on_change=lambda: choose(int(st.session_state["test"])),
    help="The id of any test image.",
)
k = two.slider("Training images on each side", 3, 20, 5, key="k", bind="query-params")
with three:
    frame.copy_as_python(
        choice,
        f"{frame.fit_line(choice.estimator)}\nscores = estimator.influence(test=[{test_id}])\n"
        f"harmful = scores.harmful({test_id}, k={k})\nhelpful = scores.helpful({test_id}, k={k})",
        "explain",
    )

matrix, mistakes = st.columns([2, 3], gap="large")
with matrix:
    event = st.plotly_chart(
        ic.figures.confusion_matrix(study),
        on_select="rerun",
        selection_mode="points",
        key="cell",
        config={"displayModeBar": False},
    )
    points = event["selection"]["points"]
with mistakes:
    if points:
        label, predicted = int(points[0]["y"]), int(points[0]["x"])
        mine = (study.test.labels == label) & (study.predictions() == predicted)
        shown = panels.by_confidence(study, mine.nonzero().flatten())
        names = study.class_names
        st.markdown(f"**{names[label]} predicted as {names[predicted]}** · click the square again for all mistakes")
    else:
        shown = wrong
        st.markdown("**Mistakes**, the model's surest first · click a square to see only its images")
    if not len(shown):
        st.info(
            "No mistakes in this class. Choose another class, or any test image by its id.", icon=":material/check:"
        )
    with st.container(height=330, border=False):
        panels.test_gallery(study, shown[:MOST].tolist(), test_id, choose)
    if len(shown) > MOST:
        st.caption(f"the first {MOST} of {len(shown):,}")

scores = results.influence(study, choice.estimator, test_id)
suspects = panels.flags(study, choice.estimator)
pictures, table = st.tabs(["Pictures", "Table"])
with pictures:
    panels.explanation(study, scores, test_id, k, suspects, key="explain")
with table:
    harmful, helpful = st.columns(2)
    harmful.markdown(":orange[**Most harmful**]")
    harmful.dataframe(scores.harmful(test_id, k), hide_index=True)
    helpful.markdown(":green[**Most helpful**]")
    helpful.dataframe(scores.helpful(test_id, k), hide_index=True)
    st.caption(f"{scores.name}: {scores.meaning}")
    panels.caveats(scores)
