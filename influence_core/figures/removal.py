"""Test accuracy against the share of training images removed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from influence_core.figures.style import HARMFUL, HELPFUL, MAIN, QUIET, SMALL, style, translucent
from influence_core.figures.text import as_text

_COLOURS = (MAIN, HARMFUL, HELPFUL, "#cc79a7", "#56b4e9", "#8c6d31")
_MOST_BANDS = 3
"""Orders beside random removal whose bands are drawn: more would lie on one another."""


def removal(table: pd.DataFrame, axis: str = "training images removed") -> go.Figure:
    """A line for each order of images; that of random removal is dotted.

    Args:
        table: name, share, removed, accuracy, gain, low and high; the accuracy with all images is that at share 0.
        axis: what the first axis shows.

    Returns:
        Lines with points, and the 95 % bands of the paired gain around the accuracy with all images; ``customdata`` is
        (removed, gain, low, high), in points.
    """
    names = list(dict.fromkeys(table["name"]))
    others = [name for name in names if name != "random"]
    colours = {"random": QUIET} | {name: _COLOURS[n % len(_COLOURS)] for n, name in enumerate(others)}
    figure = go.Figure()
    if len(others) <= _MOST_BANDS:
        for name in names:
            rows = table[table["name"] == name].sort_values("share")
            x, full = rows["share"].to_numpy(float), rows["accuracy"].to_numpy(float)[0]
            low, high = (full + rows[end].to_numpy(float) for end in ("low", "high"))
            figure.add_scatter(
                x=np.concatenate([x, x[::-1]]),
                y=np.concatenate([high, low[::-1]]),
                mode="lines",
                line={"width": 0},
                fill="toself",
                fillcolor=translucent(colours[name], 0.14),
                hoverinfo="skip",
                legendgroup=name,
                showlegend=False,
            )
    for name in names:
        rows = table[table["name"] == name].sort_values("share")
        figure.add_scatter(
            x=rows["share"],
            y=rows["accuracy"],
            mode="lines+markers",
            line={"color": colours[name], "width": 2, "dash": "dot" if name == "random" else "solid"},
            marker={"size": 6},
            name=as_text(name, 32),
            legendgroup=name,
            customdata=np.column_stack([rows["removed"], 100 * rows[["gain", "low", "high"]]]).tolist(),
            hovertemplate="%{customdata[0]:,} removed: accuracy %{y:.1%}<br>%{customdata[1]:+.1f} points (95 %: "
            "%{customdata[2]:+.1f} to %{customdata[3]:+.1f})<extra>" + as_text(name, 32) + "</extra>",
        )
    style(figure, **(SMALL | {"height": 320, "margin": {"l": 4, "r": 8, "t": 28, "b": 4}}))
    figure.update_layout(legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0})
    figure.update_xaxes(title={"text": axis, "standoff": 4}, tickformat=".0%")
    figure.update_yaxes(title={"text": "test accuracy", "standoff": 8}, tickformat=".0%")
    return figure
