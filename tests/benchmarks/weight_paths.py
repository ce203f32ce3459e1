"""The figure of edited weights, in the style of ``influence_core.figures``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from influence_core.figures.style import FLAGGED, HARMFUL, HELPFUL, MAIN, QUIET, style

_COLOURS = (HELPFUL, MAIN, HARMFUL, FLAGGED, "#cc79a7")
_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "cross")


@dataclass(frozen=True)
class WeightPaths:
    """What two weights do while images are removed, over the loss that is left.

    Attributes:
        title: of the panel.
        x: values of the first weight.
        y: of the second.
        loss: over both, ``[len(y), len(x)]``.
        paths: method -> the two weights after every removal, the start included, ``[T, 2]``.
        every: after how many removals a path has a marker.
        optimum: the two weights of least loss.
    """

    title: str
    x: np.ndarray
    y: np.ndarray
    loss: np.ndarray
    paths: Mapping[str, np.ndarray]
    every: int
    optimum: tuple[float, float]


def weight_paths(panels: Sequence[WeightPaths], loss: str = "mean squared error of the points that stay") -> go.Figure:
    """Paths of two weights under successive removals, over contours of the loss, as figure 2 of Lyu et al. (2023).

    Args:
        panels: one for each way of removing.
        loss: what the contours show.

    Returns:
        The figure.
    """
    figure = make_subplots(cols=len(panels), subplot_titles=[p.title for p in panels], horizontal_spacing=0.08)
    for column, panel in enumerate(panels, start=1):
        figure.add_contour(
            x=panel.x,
            y=panel.y,
            z=panel.loss,
            contours={"coloring": "lines", "showlabels": True, "labelfont": {"size": 10, "color": QUIET}},
            colorscale=[[0, QUIET], [1, QUIET]],
            line={"width": 1},
            ncontours=24,
            opacity=0.55,
            showscale=False,
            hovertemplate="weight 1 %{x:.3g}<br>weight 2 %{y:.3g}<br>" + loss + " %{z:.4g}<extra></extra>",
            row=1,
            col=column,
        )
        for number, (name, path) in enumerate(panel.paths.items()):
            colour, symbol = _COLOURS[number % len(_COLOURS)], _SYMBOLS[number % len(_SYMBOLS)]
            shown = {"name": name, "legendgroup": name, "row": 1, "col": column}
            figure.add_scatter(
                x=path[:, 0], y=path[:, 1], mode="lines", line={"color": colour, "width": 2}, showlegend=False,
                hoverinfo="skip", **shown,
            )  # fmt: skip
            marked = np.arange(panel.every, len(path), panel.every)
            figure.add_scatter(
                x=path[marked, 0],
                y=path[marked, 1],
                mode="lines+markers",
                line={"color": colour, "width": 0},
                marker={"color": colour, "size": 10, "symbol": symbol, "line": {"color": "white", "width": 1}},
                showlegend=column == 1,
                customdata=marked,
                hovertemplate=name + ", removal %{customdata}<br>weights %{x:.3g}, %{y:.3g}<extra></extra>",
                **shown,
            )
        first = next(iter(panel.paths.values()))[0]
        for name, (x, y), symbol, size in (("start", first, "x", 11), ("least loss", panel.optimum, "star-open", 22)):
            figure.add_scatter(
                x=[x],
                y=[y],
                mode="markers",
                name=name,
                legendgroup=name,
                marker={"color": FLAGGED, "size": size, "symbol": symbol, "line": {"width": 2}},
                showlegend=column == 1,
                hovertemplate=name + "<br>weights %{x:.3g}, %{y:.3g}<extra></extra>",
                row=1,
                col=column,
            )
        figure.update_xaxes(title="weight 1 (target per unit of input)", row=1, col=column)
        figure.update_yaxes(title="weight 2 (target per unit of input)" if column == 1 else None, row=1, col=column)
        figure.update_xaxes(range=[panel.x[0], panel.x[-1]], row=1, col=column)
        figure.update_yaxes(range=[panel.y[0], panel.y[-1]], row=1, col=column)
    style(
        figure,
        height=520,
        margin={"l": 10, "r": 10, "t": 90, "b": 10},
        legend={"orientation": "h", "y": -0.18, "x": 0.5, "xanchor": "center"},
        title={"text": f"Two weights while points are removed, the others frozen; contours: {loss}", "x": 0.02},
    )
    return figure
