"""Which training labels are wrong? One cut, on all curves at once, and the images around it."""

import math

import streamlit as st
import torch
from parts import errors, frame, likely, panels, results, selection, work

import influence_core as ic

MOST = 10_000
EACH_SIDE = 30
QUIET = {"displayModeBar": False}

choice: frame.Choice = st.session_state["choice"]
study, picked, name = choice.study, choice.picked, choice.detectors[0]

frame.heading(
    "Mislabels", "Training images in the order of suspicion. Choose where to cut: click a curve or a bar, or type."
)
if len(study.train) < 2:
    st.info("One training image alone is not more suspicious than another.", icon=":material/check:")
    st.stop()
questions = [results.ask(choice, name, "detection")]
work.wait([q.task for q in questions if q.task is not None])
if not panels.answered(questions[0], "mislabels"):
    st.stop()
whole: ic.applications.Detection = questions[0].answer
questions += [results.ask(choice, other, "detection", fills_in=True) for other in choice.detectors[1:]]
cut = panels.cut(choice, whole)
count = len(cut.flagged)


def to(number: int, words: str) -> None:
    """Flag so many images; what makes no sense is told."""
    if 1 <= number < len(study.train):
        selection.change(flag=number)
    else:
        st.session_state["refused"] = words


def by_budget() -> None:
    """A typed number of images."""
    to(int(st.session_state["budget"] or 0), "")


def by_threshold() -> None:
    """A typed threshold: all images with a larger score are flagged."""
    text = st.session_state["threshold"].strip().replace(",", ".")
    try:
        typed = float(text)
    except ValueError:
        typed = math.nan
    low, high = float(whole.scores.values.min()), float(whole.scores.values.max())
    words = f"“{text[:40]}” is no threshold here: scores go from {low:.4g} to {high:.4g}."
    to(len(whole.cut(typed).flagged) if math.isfinite(typed) else 0, words)


def by_precision() -> None:
    """A typed precision: the most images of which at least this share is mislabelled."""
    asked = float(st.session_state["precision"] or 0.0) / 100
    try:
        to(len(whole.at_precision(asked).flagged), "")
    except ic.InfluenceError as error:
        st.session_state["refused"] = str(error)


def clicked(key: str) -> None:
    """A click on a curve or a bar: its first number is how many images are flagged there."""
    points = st.session_state[key]["selection"]["points"]
    if points and points[0].get("customdata"):
        to(int(points[0]["customdata"][0]), "There is nothing to flag there: click further along the curve.")


known = whole.auc is not None
one, two, three, four = st.columns([2, 2, 2, 2], vertical_alignment="bottom", gap="small")
st.session_state["budget"] = count
one.number_input(
    "Images to flag",
    1,
    len(study.train) - 1,
    key="budget",
    on_change=by_budget,
    help=f"Otsu's threshold flags {len(whole.flagged):,}.",
)
st.session_state["threshold"] = f"{cut.threshold:.6g}"
two.text_input("Score above", key="threshold", on_change=by_threshold, help="The threshold, in the score's own unit.")
if known:
    st.session_state["precision"] = round(100 * cut.at(cut.threshold)["precision"], 1)
    three.number_input(
        "Flags that are right, %",
        0.0,
        100.0,
        key="precision",
        on_change=by_precision,
        step=1.0,
        format="%.1f",
        help="Precision. Type one to flag the most images that have it.",
    )
if refused := st.session_state.pop("refused", ""):
    st.warning(errors.as_text(refused), icon=":material/block:")
if picked.flag is not None and count != picked.flag:
    st.info(
        f"{count:,} images are flagged, not {picked.flag:,}: scores beyond are equal, and a threshold flags all "
        "or none of them.",
        icon=":material/info:",
    )

mine = torch.arange(len(study.train))
if choice.label is not None:
    mine = (study.train.labels == choice.label).nonzero().flatten()
    if not len(mine):
        st.info("No training image of this class. Choose another class.", icon=":material/check:")
        st.stop()
others = [q.answer for q in questions[1:]]  # as they are now: what comes while the page is drawn is in no curve
judged = [cut] + [other.budget(count) for other in others if other is not None]
if choice.label is not None:
    judged = [found.within(mine) for found in judged]
shown = judged[0]
now = shown.at(shown.threshold)
expected = shown.expected_precision
flags = len(shown.flagged)


def code() -> str:
    """Python that makes all that is on this page."""
    lines = [
        f"{frame.fit_line(name)}\nscores = estimator.mislabel_scores()",
        f"detection = ic.applications.detect(study, scores){frame.budget(choice)}",
    ]
    for i, other in enumerate(choice.detectors[1:], start=1):
        lines.append(frame.fit_line(other, f"other_{i}"))
        lines.append(f"other_{i} = ic.applications.detect(study, other_{i}.mislabel_scores()).budget({count})")
    listed = ", ".join(["detection", *(f"other_{i}" for i in range(1, len(choice.detectors)))])
    if choice.label is None:
        lines.append(f"curves = [{listed}]")
    else:
        lines.append(f"inside = (study.train.labels == {choice.label}).nonzero().flatten()")
        lines.append(f"curves = [found.within(inside) for found in [{listed}]]")
    lines.append("shown = curves[0]")
    if picked.order == "cut":
        lines.append(f"table = shown.scores.top(k={flags + EACH_SIDE})[{max(0, flags - EACH_SIDE)}:]  # at the cut")
    else:
        lines.append(f"table = shown.scores.top(k={flags})  # the flagged images")
    if shown.auc is not None:
        lines += [f"ic.figures.{figure}(curves)" for figure in ("roc", "precision_recall", "detection_curve")]
    lines.append("ic.figures.score_histogram(shown.scores, shown.threshold)")
    lines.append("budgets = ic.applications.budgets(shown)")
    if known:
        mark = ', (shown.expected_precision, shown.at(shown.threshold)["precision"])' if flags else ""
        lines.append(f"ic.figures.reliability(shown.reliability(){mark})")
    return "\n".join(lines)


with four:
    frame.share(choice, code(), "mislabels")
learnt = whole.quality.source != "mixture"  # a guess from the scores alone is not for the first line
guess = f" · {expected:.1%} expected to be mislabelled" if learnt and expected is not None else ""
of = "" if choice.label is None else f" of this class, {count:,} of all"
if shown.auc is not None and shown.ap is not None:
    really = f"{', ' if guess else ' · '}{now['precision']:.1%} are{'' if guess else ' mislabelled'}"
    st.markdown(
        f"**{int(now['flagged']):,} flagged**{of}{guess}{really} · "
        f"{now['recall']:.1%} of the wrong labels are found · AUC {100 * shown.auc:.1f} "
        f"({errors.as_text(str(shown.auc_interval))}) · "
        f"average precision {100 * shown.ap:.1f} ({errors.as_text(str(shown.ap_interval))})"
    )
    drawn = [found for found in judged if found.auc is not None]
    left, right = st.columns(2, gap="medium")
    for column, key, figure in (
        (left, "roc", ic.figures.roc(drawn)),
        (right, "pr", ic.figures.precision_recall(drawn)),
        (left, "checked", ic.figures.detection_curve(drawn)),
    ):
        column.plotly_chart(
            figure, key=key, on_select=lambda key=key: clicked(key), selection_mode="points", config=QUIET
        )
    last = right
else:
    if known:
        text = "All labels of this class are right, or all are wrong, so there are no curves."
    else:
        text = (
            "True labels are unknown, so there are no curves. Look at the images at the cut, or give true labels: "
            "ic.data.LabelledDataset(..., true_labels=...)."
        )
    st.markdown(f"**{int(now['flagged']):,} flagged**{of}{guess}")
    st.info(errors.as_text(text), icon=":material/info:")
    last = st.container()
last.plotly_chart(
    ic.figures.score_histogram(shown.scores, shown.threshold),
    key="histogram",
    on_select=lambda: clicked("histogram"),
    selection_mode="points",
    config=QUIET,
)
for question, other in zip(questions[1:], others, strict=True):
    if other is None and panels.answered(question, f"compare_{question.name}"):
        st.rerun()
panels.caveats(whole.scores)
likely.likely(shown)

st.divider()
place = torch.empty(len(study.train), dtype=torch.long)
order = torch.sort(whole.scores.values, descending=True, stable=True).indices
place[order] = torch.arange(len(order))
inside = order if choice.label is None else order[study.train.labels[order] == choice.label]
flagged = inside[place[inside] < count]
head, way, tiles = st.columns([3, 2, 2], vertical_alignment="center")
st.session_state["order"] = picked.order
way.segmented_control(
    "Order",
    list(selection.ORDERS),
    key="order",
    format_func=lambda word: selection.ORDERS[word],
    label_visibility="collapsed",
    on_change=lambda: selection.change(order=None if st.session_state["order"] != "cut" else "cut"),
)
panels.tile_size(picked, tiles)
if picked.order == "cut":
    above, below = flagged[-EACH_SIDE:], inside[len(flagged) : len(flagged) + EACH_SIDE]
    head.markdown(f"**At the cut** · {len(above)} flagged, then {len(below)} that are not, by rank")
    ids = torch.cat([above, below])
else:
    head.markdown(f"**Flagged images** · {len(flagged):,}")
    ids = flagged[:MOST]
if not len(ids):
    st.info("None of this class. Choose another class, or flag more images.", icon=":material/check:")
panels.train_gallery(choice, ids, set(flagged.tolist()), place + 1, "flagged")
if picked.order != "cut" and len(flagged) > MOST:
    st.caption(f"the first {MOST:,} of {len(flagged):,}; the relabel table has all of them")
frame.link("relabel", "**Relabel these**", ":material/arrow_forward:")
