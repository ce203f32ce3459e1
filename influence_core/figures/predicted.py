"""Predicted against actual changes of test losses."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from influence_core.figures.style import FLAGGED, MAIN, QUIET, SMALL, style

_MOST = 5000


def predicted_and_actual(points: pd.DataFrame, slope: float = math.nan, intercept: float = 0.0) -> go.Figure:
    """A point for each test image of each receipt, with a dotted line where both are the same.

    Args:
        points: receipt, test_id, predicted and actual; of many, 5000 spread evenly are drawn.
        slope: of the line of best fit, which is drawn unless it is NaN.
        intercept: likewise.

    Returns:
        The figure; ``customdata`` of a point is (receipt, test_id).
    """
    shown = points.iloc[np.linspace(0, len(points) - 1, min(_MOST, len(points))).astype(int)]
    low, high = float(points["predicted"].min()), float(points["predicted"].max())
    figure = go.Figure()
    line = {"color": QUIET, "dash": "dot", "width": 1.5}
    figure.add_scatter(x=[low, high], y=[low, high], mode="lines", line=line, hoverinfo="skip", name="the same")
    if math.isfinite(slope):
        ends = [intercept + slope * low, intercept + slope * high]
        fitted = {"color": FLAGGED, "width": 2}
        name = f"best fit, slope {slope:.2g}"
        figure.add_scatter(x=[low, high], y=ends, mode="lines", line=fitted, hoverinfo="skip", name=name)
    figure.add_scatter(
        x=shown["predicted"],
        y=shown["actual"],
        mode="markers",
        marker={"color": MAIN, "size": 5, "opacity": 0.5},
        customdata=shown[["receipt", "test_id"]].values.tolist(),
        hovertemplate="test image %{customdata[1]}<br>predicted %{x:+.3g}, trained %{y:+.3g}<extra></extra>",
        showlegend=False,
    )
    style(figure, **(SMALL | {"height": 320, "margin": {"l": 4, "r": 8, "t": 28, "b": 4}}))
    figure.update_layout(legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0})
    figure.update_xaxes(title={"text": "predicted change of the loss", "standoff": 4})
    figure.update_yaxes(title={"text": "change after training again", "standoff": 8})
    return figure
