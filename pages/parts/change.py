"""A set of training images and what is done with them: what a person chose, and the Python that chooses the same."""

from dataclasses import dataclass
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from parts import errors, frame, panels, results, selection, work

HELP = {
    "set": "The most suspicious ones that are flagged, those of the class in the sidebar, or those that harm a test "
    "image most.",
    "action": "Train without these images, or with the labels that are suggested for them.",
}


@dataclass(frozen=True)
class Change:
    """Training images to change.

    Attributes:
        ids: of the images, in the order in which they were chosen.
        labels: their new labels, for "relabel"; else ``None``.
        code: Python after which ``estimator``, ``ids`` and, for "relabel", ``labels`` are there.
        flagged: of all images, those whose label is suspected; empty where nobody was asked.
        kept: images of the set that keep their label, for "relabel".
    """

    ids: tuple[int, ...]
    labels: dict[int, int] | None
    code: str
    flagged: frozenset[int] = frozenset()
    kept: int = 0


def choose(choice: frame.Choice) -> Change | None:
    """Draw the choice; ``None`` where what it needs is not there yet, which is said in its place."""
    study, picked, name = choice.study, choice.picked, choice.explainers[0]
    if len(study.train) < 2:
        st.info("Without its only training image a model learns nothing.", icon=":material/check:")
        return None
    harmful, relabel = picked.set == "harmful", picked.action == "relabel"
    one, two, three, four, five = st.columns([48, 29, 36, 29, 34], vertical_alignment="bottom", gap="small")
    _words(one, "Training images", "set", selection.SETS)
    count_place = two
    _words(three, "Change", "action", selection.ACTIONS)
    test_id = panels.current(choice) if harmful else None
    with four:
        if harmful:
            panels.test_box(study, test_id)
    code = [frame.fit_line(name)]
    found: Any = None
    cut: Any = None
    if harmful and test_id is None:
        none = "The model makes no mistake. Choose a test image by its id."
        here = "No mistake in this class. Choose another class, or a test image by its id."
        st.info(none if choice.label is None else here, icon=":material/check:")
        return None
    if picked.set == "class" and choice.label is None:
        st.info("Choose a class in the sidebar.", icon=":material/arrow_back:")
        return None
    if not harmful or relabel:
        question = results.ask(choice, choice.detectors[0], "detection")
        work.wait([question.task] if question.task is not None else [])
        if not panels.answered(question, "what_if_suspects"):
            return None
        found, cut = question.answer, panels.cut(choice, question.answer)
        same = choice.detectors[0] == name
        detector = "estimator" if same else "detector"
        code += [] if same else [frame.fit_line(choice.detectors[0], "detector")]
        code.append(f"scores = {detector}.mislabel_scores()")
        if relabel or picked.set == "flagged":
            code.append(f"detection = ic.applications.detect(study, scores){frame.budget(choice)}")
    if harmful:
        question = results.ask(choice, name, "influence", test_id)
        work.wait([question.task] if question.task is not None else [])
        if not panels.answered(question, "what_if_harmful"):
            return None
        scores = question.answer
        most = int((scores.column(test_id) < 0).sum())
        order = scores.harmful(test_id, max(1, most))["train_id"].tolist()[:most]
        chosen = f"estimator.influence(test=[{test_id}]).harmful({test_id}, k={{k}})"
    elif picked.set == "flagged":
        order = cut.flagged.tolist()
        chosen = "detection.flagged"
    else:
        order = found.scores.top(k=len(study.train))["train_id"].tolist()
        chosen = "scores.top(k=len(study.train))"
    if choice.label is not None and not harmful:
        order = [i for i in order if int(study.train.labels[i]) == choice.label]
    if not order:
        st.info(_nothing(picked.set, choice.label), icon=":material/check:")
        return None
    most = min(len(order), len(study.train) - 1)
    count = min(picked.count or selection.CHANGED, most)
    _count(count_place, count, most)
    ids = order[:count]
    code.append(_ids_line(choice, chosen, count))
    labels, kept = None, 0
    if relabel:
        question = results.suggestions(choice, choice.detectors[0], found)
        work.wait([question.task] if question.task is not None else [])
        if not panels.answered(question, "what_if_suggestions"):
            return None
        suggested = question.answer.set_index("index")["suggested_label"]
        names = study.class_names
        new = {i: names.index(suggested[i]) for i in ids}
        labels = {i: label for i, label in new.items() if label != int(study.train.labels[i])}
        kept = count - len(labels)
        ids = [i for i in ids if i in labels]
        code += [
            f"table = ic.applications.relabel(study, {detector}, detection.threshold, scores)",
            'table = table[table["index"].isin(ids) & (table["given_label"] != table["suggested_label"])]',
            'labels = dict(zip(table["index"], map(study.class_names.index, table["suggested_label"])))',
            "ids = [i for i in ids if i in labels]",
        ]
    if picked.count is not None and picked.count > most:
        st.info(f"There are {most:,} such images, not {picked.count:,}: here are all.", icon=":material/info:")
    with five:
        change = Change(
            tuple(ids),
            labels,
            "\n".join(code),
            frozenset() if cut is None else frozenset(cut.flagged.tolist()),
            kept,
        )
        share(choice, change)
    return change


def share(choice: frame.Choice, change: Change) -> None:
    """The Python and the link."""
    action = ', "relabel", labels=labels' if change.labels is not None else ""
    seeds = tuple(range(choice.picked.seeds))
    frame.share(
        choice,
        f"{change.code}\nfound = ic.applications.what_if(study, estimator, ids{action})\n"
        "table = found.table  # a row for each test image\n"
        "found.warnings()  # what speaks against acting on it\n"
        "store = ic.store.Store()\n"
        "caution = ic.applications.in_range(found, ic.applications.receipts(store))\n\n"
        f"# train with and without the change, {2 * len(seeds)} models, and write down what happened:\n"
        f"# receipt = found.verify(seeds={seeds}, store=store)\n"
        "# ic.applications.calibration([receipt]).figure()",
        "what_if",
    )


def _ids_line(choice: frame.Choice, chosen: str, count: int) -> str:
    picked = choice.picked
    if picked.set == "harmful":
        return f'ids = {chosen.format(k=count)}["train_id"].tolist()'
    order = f"{chosen}.tolist()" if picked.set == "flagged" else f'{chosen}["train_id"].tolist()'
    if choice.label is None:
        return f"ids = {order}[:{count}]"
    return f"ids = [i for i in {order} if study.train.labels[i] == {choice.label}][:{count}]"


def _nothing(which: str, label: int | None) -> str:
    if which == "harmful":
        return "No training image is harmful to this test image."
    if which == "flagged":
        where = "" if label is None else " of this class"
        return f"No training image{where} is suspected. Flag more on the page Mislabels."
    return "No training image of this class. Choose another class."


def _count(place: DeltaGenerator, count: int, most: int) -> None:
    st.session_state["count"] = count
    place.number_input(
        "How many",
        1,
        most,
        key="count",
        on_change=lambda: selection.change(count=st.session_state["count"]),
        help=f"The first ones in their order; there are {most:,}.",
    )


def _words(place: DeltaGenerator, label: str, key: str, words: dict[str, str]) -> None:
    st.session_state[key] = st.query_params.get(key) if st.query_params.get(key) in words else next(iter(words))
    place.segmented_control(
        label,
        list(words),
        key=key,
        format_func=lambda word: errors.plain(words[word]),
        on_change=lambda: selection.change(**{key: st.session_state[key]}),
        help=HELP[key],
    )
