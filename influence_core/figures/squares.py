"""Matrices of squares with numbers that can be clicked and read, in light and in dark.

Squares are markers of a ``go.Scatter``: a click on a ``go.Heatmap`` returns nothing in Streamlit. Nobody knows the
background, so squares that carry a number are opaque, and the number is black or white, whichever stands out more: of
any colour that is at least the square root of 21 to 1, or 4.58 (WCAG 2, relative luminance).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from influence_core.figures.style import FLAGGED, style
from influence_core.figures.text import as_text, columns, cut, plain

HEIGHT = 320
_NARROWEST = 300  # pixels: of a column that the figure is shown in
_MANY = 12  # from here on names are shorter and smaller, to leave room for the squares
_TEXT = 12  # font of a number
_ADVANCE = 0.56  # width of a character, in font sizes
_LEGIBLE = 7  # the smallest font of a number
_PALEST, _STRONGEST = 0.2, 0.8  # share of the tone; stronger ones are where black and white stand out least


@dataclass(frozen=True)
class Square:
    """One square of a matrix.

    Attributes:
        row: 0 at the top.
        column: 0 at the left.
        number: written on it; ``None`` for nothing.
        colour: a fixed colour, "#rrggbb", or any other where there is no number.
        tip: HTML to show under the pointer.
        data: three numbers for who clicks on it.
    """

    row: int
    column: int
    number: int | None
    colour: str
    tip: str
    data: tuple[int, int, int]


def square_matrix(
    squares: Sequence[Square],
    names: Sequence[str],
    rows: str,
    columns_: str,
    title: str = "",
    strong: int | None = None,
    outlined: tuple[int, int] | None = None,
    most: int = 14,
) -> go.Figure:
    """A square matrix, 320 pixels high, whose squares nearly fill their cells from a width of 300 pixels on.

    Args:
        squares: those to draw, in any order; ``data`` becomes ``customdata``.
        names: of the n rows, which are those of the columns.
        rows: what the rows are.
        columns_: what the columns are.
        title: HTML.
        strong: a row whose name is bold.
        outlined: row and column of a cell with a strong outline.
        most: characters of a name beside the matrix.

    Returns:
        The figure, with one trace.
    """
    n = len(names)
    font, most = (10, most) if n <= _MANY else (9, min(most, 11))
    room = _ADVANCE * font * max((columns(cut(plain(name), most)) for name in names), default=1) + 8
    left = room + 20
    upright = (_NARROWEST - left) / max(1, n) < room
    margin = {"l": left, "r": 6, "t": 26 if title else 6, "b": (room if upright else font + 8) + 22}
    cell = min(_NARROWEST - left - 6, HEIGHT - margin["t"] - margin["b"]) / max(1, n)
    size = max(2.0, 0.92 * cell - 1)
    fonts = [_font(square.number, size) for square in squares]
    shown = [s.number is not None and (n <= 30 or f >= _LEGIBLE) for s, f in zip(squares, fonts, strict=True)]
    figure = go.Figure(
        go.Scatter(
            x=[square.column for square in squares],
            y=[square.row for square in squares],
            mode="markers+text",
            text=[str(square.number) if yes else "" for square, yes in zip(squares, shown, strict=True)],
            textfont={
                "size": [max(_LEGIBLE, size) for size in fonts],
                "color": [ink(s.colour) if yes else "#000000" for s, yes in zip(squares, shown, strict=True)],
            },
            customdata=[list(square.data) for square in squares],  # of an array, Streamlit makes a dictionary
            hovertext=[square.tip for square in squares],
            hovertemplate="%{hovertext}<extra></extra>",
            marker={
                "symbol": "square",
                "size": size,
                "color": [square.colour for square in squares],
                "opacity": 1,
                "line": {"width": 0},
            },
            # a click must not fade the others: their numbers would be hard to read
            selected={"marker": {"color": FLAGGED}, "textfont": {"color": ink(FLAGGED)}},
            unselected={"marker": {"opacity": 1}},
        )
    )
    style(figure, height=HEIGHT, showlegend=False, margin=margin)
    if title:
        place = {"x": 0, "xanchor": "left", "y": 1, "yanchor": "top", "pad": {"l": 4, "t": 6}}
        figure.update_layout(title={"text": title, "font": {"size": 12}, **place})
    step = max(1, int(np.ceil((font - 1) / cell)))
    ticks = list(range(0, n, step))
    texts = [f"<b>{as_text(names[i], most)}</b>" if i == strong else as_text(names[i], most) for i in ticks]
    common = {"tickvals": ticks, "ticktext": texts, "tickfont": {"size": font}, "showgrid": False, "zeroline": False}
    common |= {"automargin": False, "constrain": "domain", "fixedrange": True, "ticks": ""}
    figure.update_xaxes(
        title={"text": columns_, "font": {"size": 11}}, range=[-0.5, n - 0.5], tickangle=-90 if upright else 0, **common
    )
    figure.update_yaxes(title={"text": rows, "font": {"size": 11}}, range=[n - 0.5, -0.5], scaleanchor="x", **common)
    if outlined is not None:
        _outline(figure, *outlined, 0.5 + 2 / cell)
    return figure


def shade(tone: str, share: float) -> str:
    """A fixed, opaque colour from a light tint to a strong one.

    Args:
        tone: "#rrggbb".
        share: 0 for the lightest, 1 for the strongest.

    Returns:
        "#rrggbb".
    """
    weight = _PALEST + (_STRONGEST - _PALEST) * min(1.0, max(0.0, share))
    return "#" + "".join(f"{round(255 + weight * (channel - 255)):02x}" for channel in _channels(tone))


def ink(colour: str) -> str:
    """Black or white, whichever has the higher contrast with a colour."""
    light = _luminance(colour)
    return "#000000" if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else "#ffffff"


def _luminance(colour: str) -> float:
    """Relative luminance of WCAG 2, 0 to 1."""
    shares = [channel / 255 for channel in _channels(colour)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _font(number: int | None, size: float) -> float:
    """The largest font with which a number fits on a square."""
    return min(_TEXT, 0.8 * size, 0.95 * size / (_ADVANCE * len(str(number))))


def _outline(figure: go.Figure, row: int, column: int, reach: float) -> None:
    """Around the number, ``reach`` cells from its centre. Black, white, black: one stands out on any background."""
    place = {"x0": column - reach, "x1": column + reach, "y0": row - reach, "y1": row + reach}
    for colour, width in (("#000000", 5), ("#ffffff", 2)):
        figure.add_shape(type="rect", **place, line={"color": colour, "width": width}, layer="above")
