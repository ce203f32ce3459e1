"""A label for every suspect image, as a table and as CSV."""

import streamlit as st
from parts import errors, frame, likely, measured, panels, results, selection, work
from parts.studies import picture_url

import influence_core as ic

MOST = 100_000
COLUMNS = ["picture", "rank", "index", "given_label", "suggested_label", "predicted_label", "score", "label_quality"]
SUGGESTION = "suggestion_quality"

choice: frame.Choice = st.session_state["choice"]
study, picked, name = choice.study, choice.picked, choice.detectors[0]

frame.heading(
    "Relabel", "What each suspect image should be called. Download the table, review it, and put it back into the data."
)
question = results.ask(choice, name, "detection")
work.wait([question.task] if question.task is not None else [])
if not panels.answered(question, "relabel"):
    st.stop()
cut = panels.cut(choice, question.answer)
question = results.suggestions(choice, name, question.answer)
work.wait([question.task] if question.task is not None else [])
if not panels.answered(question, "suggestions"):
    st.stop()
table = results.flagged(question.answer, cut)
rows = table if picked.rows == "all" else table[table["is_label_issue"]]
if picked.rows == "differs":
    rows = rows[rows["given_label"] != rows["suggested_label"]]
if choice.label is not None:
    rows = rows[rows["given_label"] == study.class_names[choice.label]]

one, two, three = st.columns([3, 1, 1], vertical_alignment="bottom", gap="small")
st.session_state["rows"] = picked.rows
one.segmented_control(
    "Rows",
    list(selection.FILTERS),
    key="rows",
    format_func=lambda word: selection.FILTERS[word],
    on_change=lambda: selection.change(rows=st.session_state["rows"]),
)
two.download_button(
    "Download CSV",
    data=lambda: ic.applications.to_csv(rows),
    file_name=f"relabel-{name}.csv",
    mime="text/csv",
    icon=":material/download:",
    type="primary",
    on_click="ignore",
    disabled=not len(rows),
)
with three:
    narrowed = "" if picked.rows == "all" else 'table = table[table["is_label_issue"]]\n'
    if picked.rows == "differs":
        narrowed += 'table = table[table["given_label"] != table["suggested_label"]]\n'
    if choice.label is not None:
        narrowed += f'table = table[table["given_label"] == {study.class_names[choice.label]!r}]\n'
    frame.share(
        choice,
        f"{frame.fit_line(name)}\nscores = estimator.mislabel_scores()\n"
        f"detection = ic.applications.detect(study, scores){frame.budget(choice)}\n"
        f"table = ic.applications.relabel(study, estimator, detection.threshold, scores)\n{narrowed}"
        'ic.applications.write_relabels(table, "relabel.csv")\n\n'
        "# after the review: train again on the mended labels\n"
        'mended = ic.applications.apply_relabels(study.train, "relabel.csv")\n' + measured.code(choice),
        "relabel",
    )
if study.train.true_labels is not None and len(rows):
    truth = study.train.true_labels[rows["index"].tolist()].tolist()
    names = [study.class_names[t] for t in truth]
    st.markdown(
        f"**{len(rows):,} images** · {(rows['given_label'] == names).mean():.1%} of the given labels are right · "
        f"{(rows['suggested_label'] == names).mean():.1%} of the suggestions are right"
    )
else:
    st.markdown(f"**{len(rows):,} images**")
if not len(rows):
    st.info("Nothing to relabel with these filters.", icon=":material/check:")
    st.stop()
measured.measure(choice, rows)


def opened() -> None:
    """A chosen row opens the panel of its picture."""
    chosen = st.session_state["relabel_table"]["selection"]["rows"]
    selection.change(image=f"train-{int(rows['index'].iloc[chosen[0]])}" if chosen else None)


view = rows.head(MOST).assign(picture=[picture_url(study.train, i, 64) for i in rows["index"].head(MOST)])
st.dataframe(
    view[COLUMNS if view[SUGGESTION].isna().all() else [*COLUMNS, SUGGESTION]],
    hide_index=True,
    row_height=52,
    key="relabel_table",
    on_select=opened,
    selection_mode="single-row",
    column_config={
        "picture": st.column_config.ImageColumn("picture", width="small"),
        "index": st.column_config.NumberColumn("image"),
        "given_label": st.column_config.TextColumn("given"),
        "suggested_label": st.column_config.TextColumn("suggested"),
        "predicted_label": st.column_config.TextColumn("predicted"),
        "score": st.column_config.NumberColumn("score", format="%.4g"),
        "label_quality": st.column_config.ProgressColumn("label quality", min_value=0.0, max_value=1.0, format="%.3f"),
        SUGGESTION: st.column_config.ProgressColumn("suggestion quality", min_value=0.0, max_value=1.0, format="%.3f"),
    },
)
if len(rows) > MOST:
    st.caption(f"the first {MOST:,} of {len(rows):,}; the CSV has all of them")
st.caption(
    f"Suspected by {panels.title(name)}. Label quality is the probability that the given label is right: low is bad. "
    f"{likely.how_known(cut)} "
    f"{errors.as_text('A chosen row opens its picture.')}"
)
panels.caveats(cut.scores)
