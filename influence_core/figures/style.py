"""What all figures share: colours, and a background that suits light and dark."""

from __future__ import annotations

import plotly.graph_objects as go

HARMFUL, HELPFUL, FLAGGED, MAIN, QUIET = "#d55e00", "#009e73", "#e69f00", "#3f6fd8", "#8a8f98"
"""Colours that stay apart for colour-blind eyes (Okabe and Ito), used for the same thing everywhere."""


def style(figure: go.Figure, **layout: object) -> None:
    """The common look; ``layout`` overrides it."""
    figure.update_layout(
        template="plotly_white",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        height=360,
        margin={"l": 10, "r": 10, "t": 30, "b": 10},
        legend={"orientation": "h", "y": 1.1, "x": 0},
        hoverlabel={"font": {"size": 13}},
    )
    figure.update_layout(**layout)
