"""A label for every suspect image, as a table and as CSV."""

import streamlit as st
from parts import frame, panels, results
from parts.studies import picture_url

import influence_core as ic

MOST = 100_000
COLUMNS = ["picture", "rank", "index", "given_label", "suggested_label", "predicted_label", "score", "label_quality"]

choice: frame.Choice = st.session_state["choice"]
study = choice.study

frame.heading(
    "Relabel", "What each suspect image should be called. Download the table, review it, and put it back into the data."
)
table = results.suggestions(study, choice.estimator)
one, two = st.columns(2)
flagged_only = one.toggle("Only flagged images", True, key="flagged_only", bind="query-params")
differs = two.toggle(
    "Only where the suggestion differs from the given label", False, key="differs", bind="query-params"
)
rows = table
if flagged_only:
    rows = rows[rows["is_label_issue"]]
if differs:
    rows = rows[rows["given_label"] != rows["suggested_label"]]
if choice.label is not None:
    rows = rows[rows["given_label"] == study.class_names[choice.label]]

if study.train.true_labels is not None:
    truth = study.train.true_labels[rows["index"].tolist()].tolist()
    names = [study.class_names[t] for t in truth]
    right = (rows["suggested_label"] == names).mean() if len(rows) else 0.0
    before = (rows["given_label"] == names).mean() if len(rows) else 0.0
    columns = st.columns(3)
    columns[0].metric("Images in the table", f"{len(rows):,}", border=True)
    columns[1].metric("Given labels that are right", f"{before:.1%}", border=True, help="of the images in the table")
    columns[2].metric("Suggestions that are right", f"{right:.1%}", border=True, help="of the images in the table")
with st.container(horizontal=True):
    st.download_button(
        "Download CSV",
        data=lambda: ic.applications.to_csv(rows),
        file_name=f"relabel-{choice.estimator}.csv",
        mime="text/csv",
        icon=":material/download:",
        type="primary",
        on_click="ignore",
        disabled=not len(rows),
    )
    narrowed = 'table = table[table["is_label_issue"]]\n' if flagged_only else ""
    narrowed += 'table = table[table["given_label"] != table["suggested_label"]]\n' if differs else ""
    if choice.label is not None:
        narrowed += f'table = table[table["given_label"] == {study.class_names[choice.label]!r}]\n'
    frame.copy_as_python(
        choice,
        f"{frame.fit_line(choice.estimator)}\ntable = ic.applications.relabel(study, estimator)\n{narrowed}"
        'ic.applications.write_relabels(table, "relabel.csv")\n\n'
        "# after the review: train again on the mended labels\n"
        'mended = ic.applications.apply_relabels(study.train, "relabel.csv")',
        "relabel",
    )
if not len(rows):
    st.info("Nothing to relabel with these filters.", icon=":material/check:")
    st.stop()
view = rows.head(MOST).assign(picture=[picture_url(study.train, i, 64) for i in rows["index"].head(MOST)])
st.dataframe(
    view[COLUMNS],
    hide_index=True,
    height=640,
    row_height=52,
    column_config={
        "picture": st.column_config.ImageColumn("picture", width="small"),
        "index": st.column_config.NumberColumn("image"),
        "given_label": st.column_config.TextColumn("given"),
        "suggested_label": st.column_config.TextColumn("suggested"),
        "predicted_label": st.column_config.TextColumn("predicted"),
        "score": st.column_config.NumberColumn("score", format="%.4g"),
        "label_quality": st.column_config.ProgressColumn("label quality", min_value=0.0, max_value=1.0, format="%.3f"),
    },
)
if len(rows) > MOST:
    st.caption(f"the first {MOST:,} of {len(rows):,}; the CSV has all of them")
panels.caveats(results.mislabels(study, choice.estimator))
