"""Panels that more than one page shows."""

from collections.abc import Callable, Sequence
from typing import Literal

import pandas as pd
import streamlit as st
import torch
from streamlit.delta_generator import DeltaGenerator
from torch import Tensor

import influence_core as ic
from parts import errors, leaks, results, selection, underway, work
from parts.errors import as_text
from parts.frame import Choice
from parts.gallery import Tile, Tiles, coded, gallery, isolated, joined, train_tile, train_tiles
from parts.results import Question

SECONDS_PER_IMAGE = 4
"""An assumption, not a measurement: what looking at one suspect takes a person. The minutes shown follow from it."""
Side = Literal["harmful", "helpful"]
SIDES: tuple[Side, Side] = ("harmful", "helpful")


def by_confidence(study: ic.Study, ids: Tensor) -> Tensor:
    """Test ids, those first whose prediction the model is surest of."""
    confidence = study.outputs()[ids].softmax(1).max(1).values
    return ids[torch.sort(confidence, descending=True, stable=True).indices]


def mistakes(study: ic.Study, label: int | None, cell: tuple[int, int] | None = None) -> Tensor:
    """Ids of the misclassified test images of a class, of a square of the matrix, or all; the model's surest first.

    Args:
        study: the study.
        label: the class, or ``None`` for all.
        cell: the square: label, prediction. One on the diagonal has no mistakes; its right answers are shown.

    Returns:
        int64.
    """
    predictions = study.predictions()
    ids = study.misclassified()
    if cell is not None:
        ids = ((study.test.labels == cell[0]) & (predictions == cell[1])).nonzero().flatten()
    return by_confidence(study, ids if label is None else ids[study.test.labels[ids] == label])


def current(choice: Choice) -> int | None:
    """The test image on show: the one that is chosen, or the surest mistake among those shown."""
    if choice.picked.test is not None:
        return choice.picked.test
    shown = mistakes(choice.study, choice.label, choice.picked.cell)
    return int(shown[0]) if len(shown) else None


def answered(question: Question, key: str) -> bool:
    """Whether there is an answer; else where it is, what it will cost, or why there is none is drawn here.

    Args:
        question: to an estimator.
        key: of the place, once on a page.

    Returns:
        True if ``question.answer`` can be shown.
    """
    task = question.task
    title = as_text(ic.estimators.get(question.name).title)
    if question.answer is not None:
        return True
    if question.job is not None and question.request is not None:
        underway.show(question.job, question.request, question.partial(), key)
    elif task is None:
        cost = cost_of(question.expected)
        with st.container(horizontal=True, vertical_alignment="center", key=f"start_{key}"):
            st.markdown(f"**{title}** {cost}.")
            if st.button("Start", key=f"begin_{key}", icon=":material/play_arrow:", type="primary"):
                question.start()
                st.rerun()
    elif task.under_way:
        work.pending(task, key)
    elif isinstance(task.error, ic.InfluenceError):
        errors.show(task.error)
    elif task.error is not None:
        with st.container(horizontal=True, vertical_alignment="center", key=f"failed_{key}"):
            st.error(f"{title} failed ({type(task.error).__name__}). The server's log has the details.")
            if st.button("Try again", key=f"again_{key}"):
                work.forget(task.key)
                st.rerun()
    else:
        with st.container(horizontal=True, vertical_alignment="center", key=f"stopped_{key}"):
            st.markdown(f"**{title}** was stopped.")
            if st.button("Start again", key=f"restart_{key}"):
                question.start()
                st.rerun()
    return False


def cost_of(expected: ic.estimators.Expected | None) -> str:
    """What comes after the name of what is about to start, as Markdown."""
    if expected is None or expected.seconds is None:
        return "may take long: nobody knows how long"
    return f"needs {as_text(expected.in_words())}"


def suspects(choice: Choice, fills_in: bool = True) -> Question:
    """The detection of the estimator that flags; ``cut`` gives it the cut that is chosen."""
    return results.ask(choice, choice.detectors[0], "detection", fills_in=fills_in)


def cut(choice: Choice, found: ic.applications.Detection) -> ic.applications.Detection:
    """A detection with the number of images that the selection flags; Otsu's where it names none."""
    return found if choice.picked.flag is None else found.budget(choice.picked.flag)


def explanation(
    choice: Choice, test_id: int, names: Sequence[str], k: int, key: str
) -> tuple[list[ic.Scores], ic.applications.Detection | None]:
    """The training images behind the answer to a test image, a row per estimator; the rest fills in after them.

    Args:
        choice: the study, and who flags.
        test_id: the test image.
        names: of the estimators.
        k: training images on each side.
        key: of the panel.

    Returns:
        The scores that are there already, in the order of ``names``, and the detection whose flags are shown, if it is.
    """
    study, many = choice.study, len(names) > 1
    questions = results.ask_all(choice, names, test_id)
    work.wait([q.task for q in questions if q.task is not None])
    answers = [q.answer for q in questions]  # as they are now: another that came while the page is drawn is in no sum
    there = [answer for answer in answers if answer is not None]
    found = flags = None
    # the answer first, then what only fills in
    if there and all(q.task is None or not q.task.under_way for q in questions):
        flags = suspects(choice)
        work.wait([flags.task] if flags.task is not None else [], 0.1)
        found = None if flags.answer is None else cut(choice, flags.answer)
        for question, answer in zip(questions, answers, strict=True):
            if answer is not None:
                results.ahead(study, question.name, test_id)
    if there:
        leak(choice, test_id)
    together = ic.evaluation.agreement(there, test_id, k) if len(there) > 1 else None
    flagged = None if found is None else {int(i) for i in found.flagged}
    if many:
        one, two = st.columns(2, gap="medium")
        one.markdown(f"**Most harmful** · {_words(study, test_id)[0]}")
        two.markdown(f"**Most helpful** · {_words(study, test_id)[1]}")
    for name, question, answer in zip(names, questions, answers, strict=True):
        if many:
            _row_heading(question)
        if answer is None and answered(question, f"{key}_{name}"):
            st.rerun()
        scores = question.partial() if answer is None else answer
        if scores is not None:
            _rows(choice, scores, test_id, k, flagged, together, f"{key}_{name}", many)
    if there:
        _legend(choice, found, many, flags)
        for scores in there:
            caveats(scores, named=many)
    return there, found


def leak(choice: Choice, test_id: int) -> None:
    """Say so where the test image is in the training set too; it is looked for once the answer is there."""
    study = choice.study
    found = leaks.copies(study, test_id)
    if not found:
        return
    index, likeness = found[0]
    kind = "the same picture" if likeness == 2.0 else "nearly the same picture"
    more = f", and {len(found) - 1} more are" if len(found) > 1 else ""
    same = int(study.train.labels[index]) == int(study.test.labels[test_id])
    label = "with the same label" if same else f"labelled {errors.name(study.train.label_text(index), 40)}"
    st.warning(
        f"**A leak:** training image {index} is {kind}, {label}{more}. The model may know the answer by heart, and "
        "that copy is an explanation by itself.",
        icon=":material/content_copy:",
    )


def _words(study: ic.Study, test_id: int) -> tuple[str, str]:
    if int(study.test.labels[test_id]) == int(study.predictions()[test_id]):
        return "pulled away from the right answer", "made the answer right"
    return "pushed the model to its mistake", "pulled the right way"


def _row_heading(question: Question) -> None:
    kind = ic.estimators.get(question.name)
    cost = ""
    if question.answer is not None:
        spent = float(question.answer.meta.get("seconds") or 0.0) + float(
            question.answer.meta.get("fit_seconds") or 0.0
        )
        cost = f" · {ic.progress.duration(spent)} with its fit"
    st.markdown(f"**{as_text(kind.title)}**{cost}")


def _rows(
    choice: Choice,
    scores: ic.Scores,
    test_id: int,
    k: int,
    flagged: set[int] | None,
    together: "ic.evaluation.Agreement | None",
    key: str,
    many: bool,
) -> None:
    study = choice.study
    frames: dict[Side, pd.DataFrame] = {"harmful": scores.harmful(test_id, k), "helpful": scores.helpful(test_id, k)}
    largest = max(*(abs(frame["score"]).max() for frame in frames.values()), 1e-30)
    columns = st.columns(2, gap="medium") if many else (st.container(), st.container())
    for column, (side, frame) in zip(columns, frames.items(), strict=True):
        with column:
            if not many:
                st.markdown(f"**Most {side}** · {_words(study, test_id)[side == 'helpful']}")
            tiles: list[Tile] = []
            for row in frame.to_dict("records"):
                index = int(row["train_id"])
                tile = train_tile(study, index, flagged is not None and index in flagged, size=192)
                tile["note"] = f"#{index}" if many else f"#{index} · {signed(row['score'])}"
                tile["bar"] = float(row["score"] / largest)
                tile["tip"] += f", influence {signed(row['score'])}"
                if together is not None and (named := together.count(index, side)) > 1:
                    tile["badge"] = f"{named} of {len(together.names)}"
                    tile["tip"] += f"; {named} of {len(together.names)} estimators name it among the most {side}"
                tiles.append(tile)
            title = ic.estimators.get(scores.name).title
            gallery(
                tiles,
                key=f"{key}_{side}",
                size=132,
                columns=max(5, k if k <= 10 else 10) if many or k <= 5 else None,
                on_pick=show_panel("train"),
                label=f"{title}: most {side} training images",
            )


def _legend(choice: Choice, found: ic.applications.Detection | None, many: bool, flags: Question | None) -> None:
    study = choice.study
    legend = ["bar: strength of the influence"]
    if many:
        legend.append(f"“2 of {len(choice.explainers)}”: so many estimators name it")
    if study.train.true_labels is not None:
        legend.append("~~struck~~ label: known to be wrong, the true one follows")
    who = title(choice.detectors[0])
    if found is not None:
        legend.append(f"yellow frame: one of the {len(found.flagged):,} labels that {who} suspects")
    st.caption(" · ".join(legend))
    if found is None and flags is not None:
        waits = flags.task is not None and flags.task.under_way
        # beside several rows there is no place for more than what comes by itself
        if (waits or not many or flags.answer is not None) and answered(flags, "suspects"):
            st.rerun()  # it came while the page was drawn


def show_panel(split: str) -> Callable[[int], None]:
    """What a click on a tile does: open the picture's panel."""
    return lambda index: selection.change(image=f"{split}-{index}")


def caveats(scores: ic.Scores, named: bool = False) -> None:
    """How far the scores can be trusted, in the library's words."""
    who = f" {as_text(ic.estimators.get(scores.name).title)}" if named else " it"
    st.caption(f"**How far to trust{who}** · {as_text(' '.join(scores.caveats()))}")


def signed(score: float) -> str:
    """A score in few characters, with its sign and without an exponent where there is room."""
    return f"{score:+,.0f}" if 1000 <= abs(score) < 1e7 else f"{score:+.3g}"


def tiles_of_tests(study: ic.Study, ids: Tensor, size: int, current: int | None = None) -> Tiles:
    """Test images with their labels and predictions.

    Args:
        study: the study.
        ids: test ids [n].
        size: of the pictures.
        current: the one that is chosen.

    Returns:
        The tiles.
    """
    data, names = study.test, [study.test.class_name(k) for k in range(study.num_classes)]
    inline = [isolated(name) for name in names]
    true, predicted = data.labels[ids], study.predictions()[ids]
    confidence = study.outputs()[ids].softmax(1).gather(1, predicted[:, None]).flatten()
    number = {"same": "id"}
    return Tiles.of_pictures(data, ids, size).adding(
        before=coded(names, true),
        label=joined("→ ", coded(names, predicted)),
        note=[f"{share:.0%} sure" for share in confidence.tolist()],
        tip=joined("test image ", number, ": label ", coded(inline, true), ", predicted ", coded(inline, predicted)),
        link=joined("test-", number),
        selected=ids == (-1 if current is None else current),
    )


def card(study: ic.Study, test_id: int, size: int = 150) -> None:
    """A test image with its label, the prediction and the model's confidence."""
    right = int(study.test.labels[test_id]) == int(study.predictions()[test_id])
    st.markdown(f"**Test image {test_id}**")
    tile = tiles_of_tests(study, torch.tensor([test_id]), 384).tile(0)
    tile["note"] = f"{'right' if right else 'wrong'}, {tile['note']}"
    tile["selected"] = False
    gallery([tile], key="test_card", size=size, columns=1, on_pick=show_panel("test"), label="The test image")


def surest(study: ic.Study, test_id: int, apart: str = " · ") -> None:
    """The three classes that the model is surest of."""
    top = torch.topk(study.outputs()[test_id].softmax(0), min(3, study.num_classes))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    st.caption("The model says: " + apart.join(f"{errors.name(study.class_names[k], 40)} ({p:.0%})" for k, p in pairs))


def browser(study: ic.Study, ids: Tensor, current: int | None, height: int, columns: int | None = None) -> None:
    """Test images to choose from, [n] ids."""
    gallery(
        tiles_of_tests(study, ids, 96, current),
        key="mistakes",
        size=100 if columns else 78,
        on_pick=lambda index: selection.change(test=index),
        height=height,
        columns=columns,
        label="Test images to choose from",
    )


def picture(choice: Choice, split: str, index: int) -> None:
    """The panel of one picture: large, with its file, its labels, and its rank under all that is computed."""
    study = choice.study
    data = study.split(split)
    kind = "Training" if split == "train" else "Test"

    @st.dialog(f"{kind} image {index}", width="large", on_dismiss=lambda: selection.change(image=None))
    def panel() -> None:
        left, right = st.columns([3, 4], gap="large")
        with left:
            way = st.segmented_control(
                "Zoom", ["crisp", "smooth"], default="crisp", key="zoom", label_visibility="collapsed"
            )
            try:
                source = ic.pictures.original_url(data, index)
            except ic.InfluenceError as error:
                st.caption(as_text(str(error)))
            else:
                crisp = "pixelated" if way != "smooth" else "auto"
                st.html(
                    f'<img src="{source}" alt="{kind} image {index}" style="width:100%;border-radius:8px;'
                    f'image-rendering:{crisp}">'
                )
        with right:
            st.dataframe(_facts(study, split, index), hide_index=True, width="stretch")
            if split == "test":
                st.button(
                    "Explain this image",
                    on_click=lambda: selection.change(test=index, image=None),
                    icon=":material/quick_reference_all:",
                )
            ranks = _ranks(choice, split, index)
            if len(ranks):
                st.markdown("**Its ranks, under what is computed so far**")
                st.dataframe(ranks, hide_index=True, width="stretch")
            elif split == "train":
                st.caption("No estimator has been asked about it yet.")

    panel()


def _facts(study: ic.Study, split: str, index: int) -> pd.DataFrame:
    data = study.split(split)
    given, predicted = int(data.labels[index]), int(study.predictions(split)[index])
    rows = [
        ("id", f"{split}-{index:06d}"),
        ("file", data.filepath(index) or "held in memory"),
        ("given label", data.class_name(given)),
        (
            "predicted label",
            f"{data.class_name(predicted)} ({float(study.outputs(split)[index].softmax(0)[predicted]):.0%})",
        ),
    ]
    if data.true_labels is not None:
        rows.append(("true label", data.class_name(int(data.true_labels[index]))))
    return pd.DataFrame(rows, columns=["what", "value"])


def _ranks(choice: Choice, split: str, index: int) -> pd.DataFrame:
    """Place of a training image under every estimator whose scores are kept."""
    rows = []
    if split == "train":
        shown = current(choice)
        for scores in results.known(choice.study):
            title = ic.estimators.get(scores.name).title
            if scores.test_ids is None:
                values = scores.values
                rows.append((title, "suspicion", _rank(values, index, True), float(values[index])))
                continue
            for test_id in scores.test_ids.tolist():
                if test_id == shown or len(scores.test_ids) == 1:
                    values = scores.column(test_id)
                    harmful = bool(values[index] < 0)
                    side = "harmful" if harmful else "helpful"
                    rows.append(
                        (
                            title,
                            f"{side} to test image {test_id}",
                            _rank(values, index, not harmful),
                            float(values[index]),
                        )
                    )
    frame = pd.DataFrame(rows, columns=["estimator", "question", "rank", "score"])
    return frame.sort_values(["question", "rank"], ignore_index=True).drop_duplicates(["estimator", "question"])


def _rank(values: Tensor, index: int, descending: bool) -> int:
    """Place in the order that tables have: equal values in the order of their ids."""
    beyond = values > values[index] if descending else values < values[index]
    return int(beyond.sum()) + int((values[:index] == values[index]).sum()) + 1


def title(name: str) -> str:
    """An estimator as a person reads it, as Markdown."""
    return as_text(ic.estimators.get(name).title)


def test_box(study: ic.Study, test_id: int | None) -> None:
    """Any test image, by its id."""
    st.session_state["test"] = test_id
    st.number_input(
        "Test image",
        0,
        len(study.test) - 1,
        value=None,
        key="test",
        on_change=lambda: selection.change(test=st.session_state["test"]),
        placeholder="id",
        help="The id of any test image.",
    )


def seeds_box(picked: selection.Selection) -> None:
    """How many models of each kind are trained."""
    st.session_state["seeds"] = picked.seeds
    st.number_input(
        "Seeds",
        1,
        selection.MOST_SEEDS,
        key="seeds",
        on_change=lambda: selection.change(seeds=st.session_state["seeds"]),
        help="Models of each kind, from different first weights: with three or more the interval counts the luck of "
        "training as well.",
    )


def tables(choice: Choice, there: Sequence[ic.Scores], test_id: int, k: int) -> None:
    """What the pictures show as tables, and how far several estimators agree."""
    if not there:
        return
    if len(there) == 1:
        with st.expander("As a table", icon=":material/table:"):
            one, two = st.columns(2)
            one.markdown("**Most harmful**")
            one.dataframe(there[0].harmful(test_id, k), hide_index=True)
            two.markdown("**Most helpful**")
            two.dataframe(there[0].helpful(test_id, k), hide_index=True)
            st.caption(as_text(f"{there[0].name}: {there[0].meaning}"))
        return
    together = ic.evaluation.agreement(there, test_id, k)
    st.markdown("**How far they agree**")
    one, two, three = st.columns([2, 2, 3], gap="medium")
    for column, side in zip((one, two), SIDES, strict=True):
        column.plotly_chart(ic.figures.overlap(together, side), key=f"overlap_{side}", config={"displayModeBar": False})
    for sentence in together.sentences():
        three.markdown(f"- {as_text(sentence)}")
    with st.expander("As a table", icon=":material/table:"):
        st.dataframe(together.table, hide_index=True)


def tile_size(picked: selection.Selection, place: DeltaGenerator) -> None:
    """How large the tiles of a gallery are."""
    st.session_state["tiles"] = picked.size
    place.segmented_control(
        "Tiles",
        list(selection.SIZES),
        key="tiles",
        label_visibility="collapsed",
        on_change=lambda: selection.change(tiles=st.session_state["tiles"]),
    )


def train_gallery(choice: Choice, ids: Tensor, flagged: set[int], ranks: Tensor, key: str) -> None:
    """Training images with their place in the order of suspicion as bars; 10,000 and more."""
    gallery(
        train_tiles(choice.study, ids, flagged, ranks),
        key=key,
        size=selection.SIZES[choice.picked.size],
        height=620,
        on_pick=show_panel("train"),
        label="Training images by suspicion",
    )
