"""Gains with their intervals, one below the other."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from influence_core.figures.style import HARMFUL, HELPFUL, MAIN, QUIET, SMALL, style
from influence_core.figures.text import as_text

_TONES = {"main": MAIN, "quiet": QUIET, "good": HELPFUL, "bad": HARMFUL}


def gains(table: pd.DataFrame, axis: str = "gain in test accuracy, points") -> go.Figure:
    """Points with their 95 % intervals, the first row on top, and a dotted line at 0.

    Args:
        table: a row each: name; gain, low and high as shares, shown in points; and tone, of "main", "quiet", "good" and
            "bad", "main" where there is no such column.
        axis: what is gained.

    Returns:
        One trace; ``customdata`` is (low, high) in points.
    """
    tones = table["tone"] if "tone" in table else ["main"] * len(table)
    colours = [_TONES[tone] for tone in tones]
    value, low, high = (100 * table[column].to_numpy(float) for column in ("gain", "low", "high"))
    names = [as_text(str(name), 40) for name in table["name"]]
    figure = go.Figure()
    for x, a, b, name, colour in zip(value, low, high, names, colours, strict=True):
        figure.add_scatter(
            x=[x],
            y=[name],
            error_x={"type": "data", "symmetric": False, "array": [b - x], "arrayminus": [x - a], "color": colour},
            mode="markers",
            marker={"color": colour, "size": 9},
            customdata=[[a, b]],
            hovertemplate="%{x:+.1f} points (95 %: %{customdata[0]:+.1f} to %{customdata[1]:+.1f})<extra></extra>",
            showlegend=False,
        )
    figure.add_vline(0, line={"color": QUIET, "dash": "dot", "width": 1.5})
    style(figure, **(SMALL | {"height": 60 + 34 * max(1, len(names))}))
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], automargin=True)
    figure.update_xaxes(title={"text": axis, "standoff": 4})
    return figure
