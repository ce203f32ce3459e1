"""The histogram of one score per training image."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from influence_core.applications.detection import heavy_tailed
from influence_core.figures.style import FLAGGED, HARMFUL, MAIN, style
from influence_core.scores import Scores


def score_histogram(scores: Scores, threshold: float | None = None) -> go.Figure:
    """Histogram of one score per training image, on a logarithmic axis where the tail is heavy.

    Args:
        scores: mislabel or self-influence scores.
        threshold: drawn as a line, in the unit of the scores.

    Returns:
        Bars of 60 bins, every image in one of them; where true labels are known, right and wrong labels are apart.
    """
    values = scores.column().double().numpy()
    logarithmic = heavy_tailed(scores.values)
    x = np.log10(np.maximum(values, values.max() * 1e-12)) if logarithmic else values
    edges = np.linspace(x.min(), x.max(), 61) if x.min() < x.max() else np.array([x.min() - 0.5, x.max() + 0.5])
    wrong = None if scores.train is None else scores.train.corrupted
    groups = [("training images", np.ones(len(x), bool), MAIN)]
    if wrong is not None:
        mask = wrong[scores.train_ids].numpy()
        groups = [("label right", ~mask, MAIN), ("label wrong", mask, HARMFUL)]
    figure = go.Figure()
    for name, mask, colour in groups:
        counts, _ = np.histogram(x[mask], edges)
        low, high = (10**edges, 10**edges) if logarithmic else (edges, edges)
        ranges = [f"{a:.3g} to {b:.3g}" for a, b in zip(low[:-1], high[1:], strict=True)]
        figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts,
            width=np.diff(edges),
            name=name,
            marker={"color": colour, "opacity": 0.85, "line": {"width": 0}},
            customdata=ranges,
            hovertemplate="%{y} images<br>score %{customdata}<extra>" + name + "</extra>",
        )
    if threshold is not None:
        at = float(np.log10(max(threshold, values.max() * 1e-12))) if logarithmic else threshold
        figure.add_vline(at, line={"color": FLAGGED, "width": 2}, annotation={"text": f"threshold {threshold:.3g}"})
    style(figure, barmode="stack")
    figure.update_yaxes(title="images")
    figure.update_xaxes(title=f"{scores.name} score" + (" (logarithmic)" if logarithmic else ""))
    if logarithmic:
        ticks = np.arange(np.floor(edges[0]), np.ceil(edges[-1]) + 1)
        ticks = ticks[:: max(1, len(ticks) // 8)]
        figure.update_xaxes(
            tickvals=ticks, ticktext=[f"10<sup>{t:.0f}</sup>" for t in ticks], range=[edges[0], edges[-1]]
        )
    return figure
