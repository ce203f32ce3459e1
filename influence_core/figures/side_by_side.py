"""One test image, and what several estimators say of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

import pandas as pd
import plotly.graph_objects as go
from torch import Tensor

from influence_core.errors import StaleResult
from influence_core.evaluation.agreement import SIDES, Agreement, Side, agreement
from influence_core.figures.strip import PITCH, Caption, Strip, answer, labels, strongest
from influence_core.figures.style import HARMFUL, HELPFUL
from influence_core.figures.text import as_lines, as_text
from influence_core.pictures import data_url
from influence_core.scores import Scores
from influence_core.study import Study

_COLOURS: dict[Side, str] = {"harmful": HARMFUL, "helpful": HELPFUL}
_LEFT, _GAP, _ROW, _TOP = 1.75, 0.5, 2.15, 0.75  # in pictures
_UNIT = 58  # pixels of a picture where the figure is wide enough
_SIZE, _NAME = 10, 10  # font of the captions, and characters of a class in them


def side_by_side(
    study: Study, scores: Sequence[Scores], test_id: int, k: int = 5, flagged: Collection[int] | Tensor = ()
) -> go.Figure:
    """One test image, and the training images that each of several estimators names for it.

    A row per estimator: its most harmful images on the left, its most helpful ones on the right, the first rank first,
    and a bar for the strength among those of the same row. An image that several of them name on the same side says so:
    "3 of 4".

    Args:
        study: whose images are shown.
        scores: influence scores of two estimators or more, each with a column for ``test_id``.
        test_id: the test image.
        k: how many training images on each side.
        flagged: training ids whose label is suspect; they get a yellow frame.

    Returns:
        Pictures; as high as the number of estimators asks for.

    Raises:
        InvalidInput: if there are fewer than two scores, or if they do not fit together; see ``agreement``.
        NotSupported: if scores are of another kind than influence.
        StaleResult: if they belong to another study.
    """
    agreed = agreement(scores, test_id, k)
    for s in scores:
        if "study" in s.meta and s.meta["study"] != study.fingerprint:
            raise StaleResult(f"these {s.name} scores belong to another study: call .fit(study) again")
    suspects = {int(i) for i in flagged}
    shown = min(k, len(agreed.train_ids))
    starts: dict[Side, float] = {"harmful": _LEFT, "helpful": _LEFT + PITCH * shown + _GAP}
    width, height = starts["helpful"] + PITCH * shown, _TOP + _ROW * len(scores)
    strip = Strip()
    for side in SIDES:
        strip.heading(starts[side], height - 0.2, f"most {side}", _COLOURS[side])
    y = height - _TOP - 1
    said = f"test image {test_id}<br>{answer(study, test_id, _NAME, arrow=' →<br>')}"
    strip.picture(0.0, y, data_url(study.test, test_id, 128), Caption(said, _SIZE, answer(study, test_id)))
    for name, s in zip(agreed.names, scores, strict=True):
        frames: dict[Side, pd.DataFrame] = {"harmful": s.harmful(test_id, k), "helpful": s.helpful(test_id, k)}
        largest = strongest(*frames.values())
        strip.heading(_LEFT, y + 1.2, f"{as_text(name, 48)}{_seconds(s)}")
        for side in SIDES:
            say = partial(_caption, study, agreed, side)
            strip.ranked(study.train, frames[side], (starts[side], y), _COLOURS[side], suspects, largest, say)
        y -= _ROW
    margin = {"l": 0, "r": 0, "t": 5, "b": 5}
    return strip.figure((-0.3, width), (0, height), height=round(_UNIT * height) + 10, margin=margin)


def _caption(study: Study, agreed: Agreement, side: Side, index: int, score: float) -> Caption:
    """Label, id and, where another estimator names the image too, how many do."""
    wrong = study.train.true_labels is not None and study.train.labels[index] != study.train.true_labels[index]
    named, n = agreed.count(index, side), len(agreed.names)
    lines = [labels(study.train, index, _NAME // 2 if wrong else _NAME), f"#{index}"]
    lines += [f"<b>{named} of {n}</b>"] if named > 1 else []
    names = agreed.table.loc[(agreed.table["side"] == side) & (agreed.table["train_id"] == index), "names"].item()
    return Caption(
        "<br>".join(lines),
        _SIZE,
        f"{labels(study.train, index)} #{index}<br>influence {score:.3g}<br>named by {as_lines(names)}",
    )


def _seconds(s: Scores) -> str:
    """How long the estimator took, as far as that was measured."""
    said = {"": s.meta.get("seconds"), "fit ": s.meta.get("fit_seconds")}
    parts = [f"{what}{_short(float(value))}" for what, value in said.items() if value is not None]
    return f" · {', '.join(parts)}" if parts else ""


def _short(seconds: float) -> str:
    return f"{seconds:.2g} s" if 0.01 <= seconds < 99.5 else f"{seconds:,.0f} s" if seconds > 1 else "&lt; 0.01 s"
