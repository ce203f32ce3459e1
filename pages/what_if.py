"""What would a change of the training set do? A prediction, and the receipt that training writes for it."""

import streamlit as st
from parts import change, errors, frame, panels, predicted, selection, steps
from parts.errors import as_text
from parts.gallery import gallery, train_tiles
from parts.studies import picture_url
from torch import Tensor

import influence_core as ic

MOST = 1000
SHOWN = 200
COLUMNS = ["picture", "test_id", "label", "prediction", "loss", "predicted_change", "actual_change", "mends", "breaks"]

choice: frame.Choice = st.session_state["choice"]
study, picked, name = choice.study, choice.picked, choice.explainers[0]
title = panels.title(name)

frame.heading(
    "What if",
    "What a change of the training set would do to every test image, before anybody trains; then the proof.",
)
study.need_classes("what this page shows")
mine = change.choose(choice)
if mine is None:
    st.stop()
if not mine.ids:
    st.info(
        f"The suggestion for each of these {mine.kept:,} images is the label that it has. Choose others, or leave "
        "them out.",
        icon=":material/check:",
    )
    st.stop()

told = f"**{len(mine.ids):,} training images** would be {'relabelled' if mine.labels is not None else 'left out'}"
if mine.kept:
    told += f"; {mine.kept:,} more keep their label, which is the suggestion as well"
st.markdown(f"{told}. {title} predicts what that does.")
tiles = train_tiles(study, list(mine.ids[:SHOWN]), mine.flagged)
if mine.labels is not None:
    names = [errors.plain(study.class_names[mine.labels[i]], 30) for i in mine.ids[:SHOWN]]
    tiles = tiles.adding(note=[f"#{i} → {new}" for i, new in zip(mine.ids[:SHOWN], names, strict=True)])
gallery(tiles, "changed", 78, panels.show_panel("train"), height=150, label="Training images that would change")
if len(mine.ids) > SHOWN:
    st.caption(f"the first {SHOWN:,} of {len(mine.ids):,}")

step, expected = predicted.prediction(choice, mine)
found: ic.applications.WhatIf | None = steps.done(
    step,
    "predict",
    "Predict",
    f"**{title}** {panels.cost_of(expected)}.",
    by_itself=predicted.at_once(choice, expected),
)
if found is None:
    st.stop()

edited = found.edited
verification = predicted.verification(found, picked.seeds)
receipt = predicted.verified(found, picked.seeds) or steps.ready(verification)


def flips(ids: Tensor | None, key: str, words: str, nothing: str) -> None:
    """The test images whose answer would be another one."""
    if ids is None:
        st.markdown(f"**{words}** · {title} does not say")
        return
    st.markdown(f"**{words}** · {len(ids):,}")
    if not len(ids):
        st.caption(nothing)
    ids = panels.by_confidence(study, ids)[:SHOWN]
    tiles = panels.tiles_of_tests(study, ids, 96)
    if edited is not None:
        then = edited.predictions()[ids].tolist()
        tiles = tiles.adding(note=[f"then {errors.plain(study.class_names[k], 20)}" for k in then])
    gallery(
        tiles,
        key,
        78,
        panels.show_panel("test"),
        height=250,
        label=words,
    )


def opened() -> None:
    """A chosen row opens the panel of its picture."""
    chosen = st.session_state["what_if_table"]["selection"]["rows"]
    selection.change(image=f"test-{int(rows['test_id'].iloc[chosen[0]])}" if chosen else None)


right = len(study.test) - len(study.misclassified())
one, two, three, four = st.columns(4)
if found.receipt.scale == "nats":
    one.metric(
        "Change of the mean test loss, nats", f"{float(found.predicted.mean()):+.3g}", border=True, help="Predicted."
    )
else:
    falls = int((found.predicted < 0).sum())
    one.metric("Test images whose loss falls", f"{falls:,}", border=True, help=f"Of {len(study.test):,}.")
for place, words, ids, of in (
    (two, "Mistakes mended", found.mends, len(study.misclassified())),
    (three, "Right answers broken", found.breaks, right),
):
    place.metric(words, "not known" if ids is None else f"{len(ids):,}", border=True, help=f"Of {of:,}.")
four.metric(
    "Accuracy of the edited model",
    "not known" if found.accuracy is None else f"{found.accuracy:.1%}",
    border=True,
    help=predicted.without_edit(found) if found.accuracy is None else f"Now {study.accuracy():.1%}.",
)
if receipt is None:
    cautions = predicted.cautions(found)
    if cautions:
        st.warning("\n\n".join(as_text(caution) for caution in cautions), icon=":material/help:")
left, other = st.columns(2, gap="medium")
with left:
    flips(found.mends, "mends", "Mistakes that would be mended", "None.")
with other:
    flips(found.breaks, "breaks", "Right answers that would break", "None.")

st.markdown("**Verify by retraining**")
left, other = st.columns([1, 6], vertical_alignment="bottom", gap="medium")
with left:
    panels.seeds_box(picked)
with other:
    if receipt is None:
        words = f"Trains {2 * picked.seeds} models, with and without the change, and compares."
        receipt = steps.done(verification, "verify", "Verify", f"{words} {steps.takes(verification)}")
    compared = None if receipt is None else ic.applications.calibration([receipt])
    if compared is not None:
        st.markdown(predicted.verdict(compared))
if receipt is None or compared is None:
    st.caption(steps.fate(verification))
else:
    left, other = st.columns([3, 2], gap="medium")
    left.plotly_chart(compared.figure(), key="receipt", config={"displayModeBar": False})
    for sentence in predicted.outcome(receipt):
        other.markdown(f"- {as_text(sentence)}")
    other.caption(predicted.RIGHT)

rows = predicted.table(found, receipt).head(MOST)
st.markdown("**Every test image**, the largest predicted fall of its loss first")
view = rows.assign(picture=[picture_url(study.test, int(i), 64) for i in rows["test_id"]])
st.dataframe(
    view[[column for column in COLUMNS if column in view]],
    hide_index=True,
    height=420,
    row_height=52,
    key="what_if_table",
    on_select=opened,
    selection_mode="single-row",
    column_config=predicted.columns(),
)
if len(found.table) > MOST:
    st.caption(f"the first {MOST:,} of {len(found.table):,}; found.table has all")
st.caption(f"**How far to trust it** · {as_text(' '.join([predicted.trust(found), *found.caveats]))}")
earlier = [r for r in predicted.earlier(name) if r.verified]
if earlier:
    with st.expander(f"What earlier predictions of {title} were worth", icon=":material/receipt_long:"):
        every = ic.applications.calibration(earlier)
        for sentence in every.sentences():
            st.markdown(as_text(sentence))
        st.dataframe(every.table.drop(columns="estimator"), hide_index=True)
