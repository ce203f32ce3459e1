"""The first ten seconds: one mistake, and the training images behind it."""

import streamlit as st
from parts import codes, errors, frame, panels, results

choice: frame.Choice = st.session_state["choice"]
study, name = choice.study, choice.explainers[0]
of_class = "" if choice.label is None else f" of class {errors.name(study.class_names[choice.label])}"

frame.heading(
    "Why did the model get this wrong?",
    f"**{errors.name(study.name)}** · the model learnt from {len(study.train):,} training images. "
    "Some of them pushed it towards its mistakes.",
)
wrong = panels.mistakes(study, choice.label)
test_id = int(wrong[0]) if len(wrong) else None
flags: results.Question | None
if test_id is not None:
    card, answer = st.columns([1, 5], gap="medium")
    with card:
        panels.card(study, test_id)
        panels.surest(study, test_id, "  \n")
    with answer:
        there, _ = panels.explanation(choice, test_id, [name], 5, "overview")
    flags = panels.suspects(choice) if there else None
else:
    if choice.label is not None and not bool((study.test.labels == choice.label).any()):
        st.info(f"There is no test image{of_class}. Choose another class.", icon=":material/info:")
    else:
        st.info(
            f"The model gets every test image{of_class} right. Choose another class, or go to Explain: it shows what "
            "made an answer right as well.",
            icon=":material/check:",
        )
    flags = panels.suspects(choice)
found = None if flags is None or flags.answer is None else panels.cut(choice, flags.answer)

with st.container(horizontal=True, vertical_alignment="center"):
    frame.link("explain", "**Explain another**", ":material/arrow_forward:")
    if test_id is not None:
        frame.share(choice, codes.overview(choice, test_id, found), "overview")
mine = slice(None) if choice.label is None else study.test.labels == choice.label
right = (study.predictions() == study.test.labels)[mine]
one, two, three = st.columns(3)
one.metric(
    f"Test accuracy{' of this class' if of_class else ''}",
    f"{float(right.double().mean()):.1%}" if len(right) else "none",
    border=True,
    help=f"{int((~right).sum())} of {len(right)} wrong",
)
if found is None:
    what = "…" if flags is None or flags.under_way else "not computed"
    two.metric("Suspect training labels", what, border=True)
    three.metric("Minutes to review them", what, border=True)
else:
    ids = found.flagged if choice.label is None else found.flagged[study.train.labels[found.flagged] == choice.label]
    title = panels.title(choice.detectors[0])
    two.metric("Suspect training labels", f"{len(ids):,}", border=True, help=f"flagged by {title}")
    minutes = max(1, round(len(ids) * panels.SECONDS_PER_IMAGE / 60))
    three.metric(
        "Minutes to review them",
        f"{minutes:,}",
        border=True,
        help=f"assuming {panels.SECONDS_PER_IMAGE} seconds an image",
    )
