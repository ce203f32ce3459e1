"""What all figures share: colours, and a background that suits light and dark."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
import plotly.io as pio

HARMFUL, HELPFUL, FLAGGED, MAIN, QUIET = "#d55e00", "#009e73", "#e69f00", "#3f6fd8", "#8a8f98"
"""Colours that stay apart for colour-blind eyes (Okabe and Ito), used for the same thing everywhere."""

_TEXT, _GRID = "#757c88", "rgba(138,143,152,0.25)"  # as far from white as from a dark page
_AXIS = {"gridcolor": _GRID, "linecolor": _GRID, "zerolinecolor": _GRID}
# a template, which a page with colours of its own (Streamlit) may replace
_TEMPLATE = go.layout.Template(pio.templates["plotly_white"])
_TEMPLATE.layout.update(font={"color": _TEXT}, xaxis=_AXIS, yaxis=_AXIS)

SMALL: dict[str, Any] = {
    "height": 260,
    "margin": {"l": 4, "r": 8, "t": 8, "b": 4},
    "font": {"size": 11},
    "legend": {"bgcolor": "rgba(0,0,0,0)", "font": {"size": 11}, "tracegroupgap": 0},
    "hoverlabel": {"font": {"size": 12}},
}
"""Layout of a figure that stands beside others."""


def translucent(colour: str, opacity: float) -> str:
    """A colour that lets others through.

    Args:
        colour: as ``#rrggbb``.
        opacity: 0 to 1.

    Returns:
        The same as ``rgba(...)``.
    """
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return f"rgba({red},{green},{blue},{opacity})"


def style(figure: go.Figure, **layout: object) -> None:
    """The common look; ``layout`` overrides it."""
    figure.update_layout(
        template=_TEMPLATE,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        height=360,
        margin={"l": 10, "r": 10, "t": 30, "b": 10},
        legend={"orientation": "h", "y": 1.1, "x": 0},
        hoverlabel={"font": {"size": 13}},
    )
    figure.update_layout(**layout)
