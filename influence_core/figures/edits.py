"""Edited models: what is dealt with, and what is still known."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from influence_core.figures.style import HELPFUL, MAIN, QUIET, SMALL, style
from influence_core.figures.text import as_text

_CONTROLS = {"no edit": QUIET, "trained again": HELPFUL}


def edits(table: pd.DataFrame) -> go.Figure:
    """A row for each model, the first on top: the share of images that are dealt with, and test accuracy beside it.

    Args:
        table: name, done, test_accuracy, low, high and gain, of ``ic.applications.compare_edits``.

    Returns:
        Two traces: ``x`` is the share, and the accuracy with the 95 % interval of the paired gain over no edit, whose
        ``customdata`` is (gain, low, high) in points.
    """
    names = [as_text(str(name), 32) for name in table["name"]]
    colours = [_CONTROLS.get(str(name), MAIN) for name in table["name"]]
    symbols = ["diamond" if str(name) in _CONTROLS else "circle" for name in table["name"]]
    marker = {"color": colours, "size": 9, "symbol": symbols}
    accuracy, gain, low, high = (table[c].to_numpy(float) for c in ("test_accuracy", "gain", "low", "high"))
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.06)
    figure.add_scatter(
        x=table["done"],
        y=names,
        mode="markers",
        marker=marker,
        hovertemplate="%{x:.0%} of the images dealt with<extra>%{y}</extra>",
        showlegend=False,
        row=1,
        col=1,
    )
    figure.add_scatter(
        x=accuracy,
        y=names,
        error_x={"type": "data", "symmetric": False, "array": high - gain, "arrayminus": gain - low, "color": QUIET},
        mode="markers",
        marker=marker,
        customdata=[[100 * value for value in row] for row in zip(gain, low, high, strict=True)],
        hovertemplate="test accuracy %{x:.1%}<br>%{customdata[0]:+.1f} points (95 %: %{customdata[1]:+.1f} to "
        "%{customdata[2]:+.1f})<extra>%{y}</extra>",
        showlegend=False,
        row=1,
        col=2,
    )
    figure.add_vline(accuracy[0], line={"color": QUIET, "dash": "dot", "width": 1.5}, row=1, col=2)
    style(figure, **(SMALL | {"height": 70 + 34 * len(names), "margin": {"l": 4, "r": 12, "t": 8, "b": 4}}))
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], automargin=True)
    figure.update_xaxes(
        title={"text": "images dealt with", "standoff": 4}, tickformat=".0%", range=[-0.04, 1.04], row=1, col=1
    )
    figure.update_xaxes(title={"text": "test accuracy", "standoff": 4}, tickformat=".0%", row=1, col=2)
    return figure
