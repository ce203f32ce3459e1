"""The histogram of one score per training image."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import plotly.graph_objects as go

from influence_core.applications import heavy_tailed
from influence_core.figures.style import FLAGGED, HARMFUL, MAIN, SMALL, style
from influence_core.scores import Scores

_OPACITY = 0.85
_FEW = 5
"""Images in the tallest bar up to which every whole number is marked."""


def score_histogram(scores: Scores, threshold: float | None = None) -> go.Figure:
    """Histogram of one score per training image, on a logarithmic axis where the tail is heavy.

    A click on a bar selects a point whose ``customdata`` is [number of images with a score above the bar's left edge,
    that edge].

    Args:
        scores: mislabel or self-influence scores.
        threshold: drawn as a line, in the unit of the scores.

    Returns:
        Bars of 60 bins, every image in one of them; where true labels are known, right and wrong labels are apart.
    """
    values = scores.column().double().numpy()
    logarithmic = scores.scale != "probability" and heavy_tailed(scores.values)
    x = np.log10(np.maximum(values, values.max() * 1e-12)) if logarithmic else values
    edges = np.linspace(x.min(), x.max(), 61) if x.min() < x.max() else np.array([x.min() - 0.5, x.max() + 0.5])
    limits = 10**edges if logarithmic else edges
    above = len(values) - np.searchsorted(np.sort(values), limits[:-1], side="right")
    cuts = [list(cut) for cut in zip(above.tolist(), limits[:-1].tolist(), strict=True)]
    ranges = [f"{a:.3g} to {b:.3g}" for a, b in pairwise(limits)]
    wrong = None if scores.train is None else scores.train.corrupted
    groups = [("training images", np.ones(len(x), bool), MAIN)]
    if wrong is not None:
        mask = wrong[scores.train_ids].numpy()
        groups = [("label right", ~mask, MAIN), ("label wrong", mask, HARMFUL)]
    figure, tallest = go.Figure(), int(np.histogram(x, edges)[0].max())
    same = {"marker": {"opacity": _OPACITY}}  # a click moves the cut; it does not set one bar off from the others
    for name, mask, colour in groups:
        figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=np.histogram(x[mask], edges)[0],
            width=np.diff(edges),
            name=name,
            marker={"color": colour, "opacity": _OPACITY, "line": {"width": 0}},
            selected=same,
            unselected=same,
            customdata=cuts,
            hovertext=ranges,
            hovertemplate="%{y:,} images<br>score %{hovertext}<br>%{customdata[0]:,} above %{customdata[1]:.4g}"
            "<extra>" + name + "</extra>",
        )
    spare = 0.015 * (edges[-1] - edges[0])
    share = 1.0
    if threshold is not None:
        at = float(np.log10(max(threshold, values.max() * 1e-12))) if logarithmic else threshold
        share = min(0.99, max(0.0, (at - edges[0]) / (edges[-1] - edges[0])))
        side = "left" if share % 0.5 < 0.25 else "right"  # inside the half of the figure that the line is in
        note = {"text": f"threshold {threshold:.3g}", "xanchor": side, "xshift": 0, "y": 1, "yanchor": "bottom"}
        figure.add_vline(at, line={"color": FLAGGED, "width": 2}, annotation=note)
    style(figure, **(SMALL | {"barmode": "stack", "showlegend": len(groups) > 1}))
    corner = {"x": 0, "xanchor": "left"} if share >= 0.5 else {"x": 1, "xanchor": "right"}  # the other half
    legend = {"orientation": "h", "y": 1, "yanchor": "bottom", "traceorder": "normal"} | corner
    figure.update_layout(legend=legend, margin={"t": 24})
    figure.update_yaxes(title="images", dtick=1 if tallest <= _FEW else None)  # else there are halves of images
    name = f"{scores.name} score" + (" (logarithmic)" if logarithmic else "")
    shown = [edges[0] - spare, edges[-1] + spare]
    figure.update_xaxes(title={"text": name, "standoff": 4}, range=shown, exponentformat="power")
    if logarithmic:
        ticks = np.arange(np.floor(edges[0]), np.ceil(edges[-1]) + 1)
        ticks = ticks[:: max(1, len(ticks) // 8)]
        figure.update_xaxes(tickvals=ticks, ticktext=[f"10<sup>{t:.0f}</sup>" for t in ticks])
    return figure
