"""Which training labels are wrong? Curves, a threshold, and the images above it."""

import streamlit as st
import torch
from parts import frame, panels, results

import influence_core as ic

MOST = 400

choice: frame.Choice = st.session_state["choice"]
study = choice.study

frame.heading(
    "Mislabels", "Training images in the order of suspicion. Move the threshold to decide how many are worth a look."
)
scores = results.mislabels(study, choice.estimator)
found = results.detection(study, choice.estimator)
order = torch.sort(scores.values, descending=True, stable=True)

one, two = st.columns([3, 2], vertical_alignment="bottom", gap="large")
count = one.slider(
    "Images to flag",
    1,
    len(study.train) - 1,
    min(len(study.train) - 1, max(1, len(found.flagged))),
    key="flag",
    bind="query-params",
    help=f"Otsu's threshold flags {len(found.flagged)}.",
)
others = [
    c.name for c in ic.estimators.all_estimators() if "mislabel_scores" in c.gives() and c.name != choice.estimator
]
compare = two.multiselect("Compare with", others, key="compare", bind="query-params", placeholder="other estimators")
threshold = float((order.values[count - 1].double() + order.values[count].double()) / 2)
detection = found.cut(threshold)
now = detection.at(threshold)

numbers = st.columns(4)
numbers[0].metric("Flagged", f"{int(now['flagged'])}", border=True, help=f"score above {threshold:.4g}")
if detection.auc is not None and detection.ap is not None:
    numbers[1].metric("Flags that are right", f"{now['precision']:.1%}", border=True, help="precision at the threshold")
    numbers[2].metric("Wrong labels found", f"{now['recall']:.1%}", border=True, help="recall at the threshold")
    numbers[3].metric(
        "AUC / AP",
        f"{100 * detection.auc:.1f} / {100 * detection.ap:.1f}",
        border=True,
        help=f"95 % intervals: AUC {detection.auc_interval}, AP {detection.ap_interval}",
    )
    shown = [detection] + [results.detection(study, name) for name in compare]
    left, right = st.columns(2, gap="large")
    quiet = {"displayModeBar": False}
    left.markdown("**ROC**")
    left.plotly_chart(ic.figures.roc(shown), key="roc", config=quiet)
    right.markdown("**Precision and recall**")
    right.plotly_chart(ic.figures.precision_recall(shown), key="pr", config=quiet)
else:
    st.info(
        "True labels are unknown, so there are no curves. Look at the images at the cut, or give true labels: "
        "ic.data.LabelledDataset(..., true_labels=...).",
        icon=":material/info:",
    )
st.markdown("**Scores**")
st.plotly_chart(ic.figures.score_histogram(scores, threshold), key="histogram", config={"displayModeBar": False})
panels.caveats(scores)
frame.copy_as_python(
    choice,
    f"{frame.fit_line(choice.estimator)}\nscores = estimator.mislabel_scores()\n"
    f"detection = ic.applications.detect(study, scores, threshold={threshold!r})\n"
    "ic.figures.roc(detection)\nic.figures.precision_recall(detection)\n"
    "ic.figures.score_histogram(scores, detection.threshold)",
    "mislabels",
)

st.divider()
head, way = st.columns([3, 2], vertical_alignment="center")
nearest = way.segmented_control(
    "Order",
    ["most suspicious", "at the threshold"],
    default="most suspicious",
    key="order",
    label_visibility="collapsed",
)
flagged = order.indices[:count]
if nearest == "at the threshold":
    distance = (order.values.double() - threshold).abs()
    ids = order.indices[torch.sort(distance, stable=True).indices[:60]]
    ids = ids[torch.sort(scores.values[ids], descending=True, stable=True).indices]
else:
    ids = flagged
if choice.label is not None:
    ids = ids[study.train.labels[ids] == choice.label]
head.markdown(f"**{'Around the threshold' if nearest == 'at the threshold' else 'Flagged images'}** · {len(ids)}")
if not len(ids):
    st.info("None of this class. Choose another class, or flag more images.", icon=":material/check:")
panels.train_gallery(study, scores, ids[:MOST].tolist(), set(flagged.tolist()), key="flagged")
if len(ids) > MOST:
    st.caption(f"the first {MOST} of {len(ids):,}; the relabel table has all of them")
