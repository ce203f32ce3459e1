"""The first ten seconds: one mistake, and the training images behind it."""

import streamlit as st
from parts import frame, panels, results

choice: frame.Choice = st.session_state["choice"]
study = choice.study

frame.heading(
    "Why did the model get this wrong?",
    f"**{study.name}** · the model learnt from {len(study.train):,} training images. "
    "Some of them pushed it towards its mistakes.",
)
wrong = panels.mistakes(study, choice.label)
if not len(wrong):
    st.info("The model gets every test image of this class right. Choose another class.", icon=":material/check:")
    st.stop()
test_id = int(wrong[0])
scores = results.influence(study, choice.estimator, test_id)
flags = panels.flags(study, choice.estimator)
panels.explanation(study, scores, test_id, k=5, flags=flags, key="overview")
suspects = "" if flags is None else "flagged = ic.applications.detect(study, estimator.mislabel_scores()).flagged\n"
with st.container(horizontal=True, vertical_alignment="center"):
    st.page_link("explain.py", label="**Explain another**", icon=":material/arrow_forward:")
    frame.copy_as_python(
        choice,
        f"{frame.fit_line(choice.estimator)}\nscores = estimator.influence(test=[{test_id}])\n{suspects}"
        f"ic.figures.explanation_strip(study, scores, test_id={test_id}, k=5{', flagged=flagged' if suspects else ''})",
        "overview",
    )
st.divider()
one, two, three = st.columns(3)
one.metric(
    "Test accuracy",
    f"{study.accuracy():.1%}",
    border=True,
    help=f"{len(study.misclassified())} of {len(study.test)} wrong",
)
if flags is not None:
    two.metric(
        "Suspect training labels", f"{len(flags)}", border=True, help=f"flagged by {scores.name}, Otsu's threshold"
    )
    minutes = max(1, round(len(flags) * panels.SECONDS_PER_IMAGE / 60))
    three.metric(
        "Minutes to review them",
        f"{minutes}",
        border=True,
        help=f"assuming {panels.SECONDS_PER_IMAGE} seconds an image",
    )
