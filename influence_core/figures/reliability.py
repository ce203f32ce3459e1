"""Probabilities against what happened."""

from __future__ import annotations

import plotly.graph_objects as go

from influence_core.applications import Reliability
from influence_core.figures.style import FLAGGED, MAIN, QUIET, SMALL, style

_SMALLEST, _LARGEST = 6.0, 18.0


def reliability(found: Reliability, precision: tuple[float, float] | None = None) -> go.Figure:
    """Said against happened, one point for each bin, its area by the number of images.

    Args:
        found: from ``ic.applications.reliability`` or ``Detection.reliability``.
        precision: expected and true precision of the flagged images, to be marked; none by default.

    Returns:
        Points with 95 % intervals, and the diagonal on which probabilities hold.
    """
    table = found.table
    share = (table["count"] / table["count"].max()) ** 0.5
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": QUIET, "dash": "dot", "width": 1}, hoverinfo="skip"
    )
    figure.add_scatter(
        x=table["said"],
        y=table["happened"],
        mode="markers+lines",
        marker={"color": MAIN, "size": _SMALLEST + (_LARGEST - _SMALLEST) * share},
        line={"color": MAIN, "width": 1},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": table["happened_high"] - table["happened"],
            "arrayminus": table["happened"] - table["happened_low"],
            "thickness": 1,
            "width": 3,
        },
        customdata=table["count"],
        hovertemplate="said %{x:.1%}<br>happened %{y:.1%}<br>%{customdata:,} images<extra></extra>",
    )
    if precision is not None:
        figure.add_scatter(
            x=[precision[0]],
            y=[precision[1]],
            mode="markers",
            marker={"color": FLAGGED, "size": 11, "symbol": "diamond"},
            hovertemplate="flagged images<br>expected %{x:.1%}<br>mislabelled %{y:.1%}<extra></extra>",
        )
    style(figure, **SMALL, showlegend=False)
    figure.update_xaxes(title={"text": "probability that the label is wrong", "standoff": 4}, range=[-0.03, 1.03])
    figure.update_yaxes(title="share that is wrong", range=[-0.03, 1.03], tickformat=".0%")
    figure.update_xaxes(tickformat=".0%")
    return figure
