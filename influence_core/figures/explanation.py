"""One test image and the training images behind it."""

from __future__ import annotations

import html
from collections.abc import Collection

import plotly.graph_objects as go
from torch import Tensor

from influence_core.data import LabelledDataset
from influence_core.figures.style import FLAGGED, HARMFUL, HELPFUL, style
from influence_core.pictures import data_url
from influence_core.scores import Scores
from influence_core.study import Study


def explanation_strip(
    study: Study, scores: Scores, test_id: int, k: int = 5, flagged: Collection[int] | Tensor = ()
) -> go.Figure:
    """One test image with its most harmful and most helpful training images.

    It says what the app's pages say of a mistake: a bar for the strength of each influence, a yellow frame around a
    label that the estimator suspects, and, where a label is known to be wrong, the label struck out before the true
    one. The app's pictures are HTML, so that they load as they come into view.

    Args:
        study: whose images are shown.
        scores: influence scores that have a column for ``test_id``.
        test_id: the test image.
        k: how many training images on each side.
        flagged: training ids whose label is suspect, such as ``detect(study, estimator.mislabel_scores()).flagged``.

    Returns:
        Pictures in two rows, harmful above helpful, the test image on the left.

    Raises:
        NotSupported: if the scores are of another kind than influence.
        InvalidInput: if they have no column for the test image.
    """
    sides = (("harmful", scores.harmful(test_id, k), HARMFUL), ("helpful", scores.helpful(test_id, k), HELPFUL))
    suspects = {int(i) for i in flagged}
    largest = max(float(frame["score"].abs().max()) for _, frame, _ in sides) or 1.0
    figure = go.Figure()
    _picture(figure, 0.0, 0.75, data_url(study.test, test_id, 128), framed=False)
    _caption(figure, 0.0, 0.75, f"test image {test_id}<br>{_answer(study, test_id)}")
    for row, (title, frame, colour) in enumerate(sides):
        y = 1.5 - 1.5 * row
        figure.add_annotation(
            x=1.35, y=y + 1.12, text=f"<b>most {title}</b>", showarrow=False, xanchor="left", font={"color": colour}
        )
        for column, (index, score) in enumerate(zip(frame["train_id"].tolist(), frame["score"].tolist(), strict=True)):
            x = 1.35 + 1.1 * column
            _picture(figure, x, y, data_url(study.train, index, 128), framed=index in suspects)
            length = abs(score) / largest
            figure.add_shape(type="rect", x0=x, x1=x + length, y0=y - 0.06, y1=y - 0.02, fillcolor=colour, line_width=0)
            _caption(figure, x, y - 0.06, f"{_labels(study.train, index)} #{index}<br>{score:.3g}")
    figure.update_xaxes(visible=False, range=[-0.1, 1.35 + 1.1 * k])
    figure.update_yaxes(visible=False, range=[-0.5, 2.75], scaleanchor="x")
    style(figure, height=430, margin={"l": 0, "r": 0, "t": 10, "b": 10})
    return figure


def _answer(study: Study, test_id: int) -> str:
    """Label and prediction of a test image, with the model's confidence."""
    true, predicted = int(study.test.labels[test_id]), int(study.predictions()[test_id])
    confidence = float(study.probabilities()[test_id, predicted])
    return f"{_name(study.test, true)} → {_name(study.test, predicted)} ({confidence:.0%})"


def _labels(data: LabelledDataset, index: int) -> str:
    """The given label; struck out before the true one where it is known to be wrong."""
    given = int(data.labels[index])
    true = given if data.true_labels is None else int(data.true_labels[index])
    name = f"<b>{_name(data, true)}</b>"
    return name if true == given else f"<s>{_name(data, given)}</s> {name}"


def _name(data: LabelledDataset, label: int) -> str:
    """Name of a class as text: Plotly reads some HTML."""
    return html.escape(data.class_name(label), quote=False)


def _picture(figure: go.Figure, x: float, y: float, source: str, framed: bool) -> None:
    figure.add_layout_image(source=source, xref="x", yref="y", x=x, y=y + 1, sizex=1, sizey=1, sizing="contain")
    if framed:
        figure.add_shape(type="rect", x0=x, y0=y, x1=x + 1, y1=y + 1, line={"color": FLAGGED, "width": 3})


def _caption(figure: go.Figure, x: float, y: float, text: str) -> None:
    figure.add_annotation(x=x + 0.5, y=y, text=text, showarrow=False, yanchor="top", font={"size": 12})
