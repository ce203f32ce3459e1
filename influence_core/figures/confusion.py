"""The confusion matrix, as squares that can be clicked."""

from __future__ import annotations

import html

import numpy as np
import plotly.graph_objects as go

from influence_core.figures.style import HARMFUL, MAIN, style
from influence_core.study import Study


def confusion_matrix(study: Study, split: str = "test") -> go.Figure:
    """Confusion matrix of squares that can be clicked; ``customdata`` of a square is (label, prediction, count).

    Args:
        study: whose model predicts.
        split: "train", "test" or "validation".

    Returns:
        The figure: right answers in blue, mistakes in orange, stronger where there are more.
    """
    k = study.num_classes
    names = [html.escape(name, quote=False) for name in study.class_names]
    counts = np.zeros((k, k), dtype=int)
    np.add.at(counts, (study.split(split).labels.numpy(), study.predictions(split).numpy()), 1)
    true, predicted = counts.nonzero()
    number = counts[true, predicted]
    right = true == predicted
    most = np.where(right, counts.diagonal().max(initial=1), max(1, (counts - np.diag(counts.diagonal())).max()))
    figure = go.Figure(
        go.Scatter(
            x=predicted,
            y=true,
            mode="markers+text",
            text=[str(n) for n in number],
            textfont={"size": 11},
            customdata=np.stack([true, predicted, number], axis=1),
            marker={
                "symbol": "square",
                "size": max(8, min(26, 260 // k)),
                "color": np.where(right, MAIN, HARMFUL),
                "opacity": 0.15 + 0.4 * number / most,
            },
            hovertemplate="%{customdata[2]} images<br>label %{y}, predicted %{x}<extra></extra>",
        )
    )
    style(figure, height=360, showlegend=False, margin={"l": 10, "r": 10, "t": 10, "b": 10})
    figure.update_xaxes(title="predicted", range=[-0.6, k - 0.4])
    figure.update_yaxes(title="label", range=[k - 0.4, -0.6])
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(tickvals=list(range(k)), ticktext=names, showgrid=False, zeroline=False)
    return figure
