"""ROC, precision-recall and detection curves of one detection or several, with bands and the cut in use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from influence_core.applications import Bands, Detection
from influence_core.errors import InvalidInput, NotSupported
from influence_core.figures.style import FLAGGED, HARMFUL, HELPFUL, MAIN, QUIET, SMALL, style, translucent

Floats = NDArray[np.float64]

_MOST_POINTS = 500
_COLOURS = (MAIN, HARMFUL, HELPFUL, "#cc79a7", "#56b4e9", "#8c6d31")
_UNSEEN = 0.01
"""Opacity of the markers that a click can select: the line is what is seen."""


class _Drawn(NamedTuple):
    """One detection, as a figure draws it.

    Attributes:
        x: of every set that a threshold can make, from none to all.
        y: likewise.
        band: x, low, high.
        name: for the legend.
        precision: for the tip where no axis shows it.
    """

    x: Floats
    y: Floats
    band: pd.DataFrame
    name: str
    precision: Floats | None = None


def roc(detections: Detection | Sequence[Detection]) -> go.Figure:
    """ROC curves with 95 % bands; the pointer shows the threshold, and a marker the one in use.

    A click on the first curve selects a point whose ``customdata`` is [number flagged, threshold].

    Args:
        detections: one, or several to compare.

    Returns:
        Straight lines, under which the area is the AUC of the legend, and a dotted diagonal for a random order.

    Raises:
        NotSupported: if the true labels are unknown, or all labels are right or all wrong.
    """
    drawn = []
    for detection, table, bands, name in _curves(detections):
        found, checked = table["found"].to_numpy(float), table["checked"].to_numpy(float)
        missed = checked - found
        name = f"{name} (AUC {100 * (detection.auc or 0.0):.1f})"
        drawn.append(_Drawn(missed / missed[-1], found / found[-1], bands.roc, name, found / np.maximum(checked, 1)))
    figure = go.Figure()
    _line(figure, [0, 1], [0, 1], "dot")
    tip = "right labels flagged %{x:.1%}<br>wrong labels found %{y:.1%}<br>flags that are right %{hovertext}"
    _draw(figure, detections, drawn, tip, legend={"x": 1, "xanchor": "right", "y": 0.02, "yanchor": "bottom"})
    _axes(figure, "right labels flagged (false positive rate)", "wrong labels found (recall)")
    return figure


def precision_recall(detections: Detection | Sequence[Detection]) -> go.Figure:
    """Precision-recall curves with 95 % bands; the pointer shows the threshold, and a marker the one in use.

    A click on the first curve selects a point whose ``customdata`` is [number flagged, threshold].

    Args:
        detections: one, or several to compare; the share of wrong labels is taken to be that of the first.

    Returns:
        Steps, under which the area is the AP of the legend, and a dotted line at the precision of a random order.

    Raises:
        NotSupported: if the true labels are unknown, or all labels are right or all wrong.
    """
    drawn = []
    for detection, table, bands, name in _curves(detections):
        found, checked = table["found"].to_numpy(float), table["checked"].to_numpy(float)
        with np.errstate(invalid="ignore"):  # no flags have no precision: NaN, not drawn
            precision = found / checked
        name = f"{name} (AP {100 * (detection.ap or 0.0):.1f})"
        drawn.append(_Drawn(found / found[-1], precision, bands.pr, name))
    share = float(drawn[0].y[-1])
    figure = go.Figure()
    _line(figure, [0, 1], [share, share], "dot")
    tip = "wrong labels found %{x:.1%}<br>flags that are right %{y:.1%}"
    # average precision: the precision at a recall is that of the first threshold that reaches it
    legend = {"x": 0.01, "xanchor": "left", "y": min(0.5, share + 0.03), "yanchor": "bottom"}
    if max(detection.ap or 0.0 for detection in _list(detections)) < 0.5:  # then this is the corner that is free
        legend = {"x": 1, "xanchor": "right", "y": 1, "yanchor": "top"}
    _draw(figure, detections, drawn, tip, shape="vh", legend=legend)
    _axes(figure, "wrong labels found (recall)", "flags that are right (precision)")
    return figure


def detection_curve(detections: Detection | Sequence[Detection]) -> go.Figure:
    """Wrong labels found against images checked, most suspicious first, with 95 % bands and a marker at the cut in use.

    The figure of most papers on wrong labels (SAM attribution, figures 1b and 3). A click on the first curve selects a
    point whose ``customdata`` is [number flagged, threshold].

    Args:
        detections: one, or several to compare; the random and the ideal order are those of the first.

    Returns:
        Straight lines, a dotted one for a random order and a dashed one for the ideal, which finds all wrong labels
        first.

    Raises:
        NotSupported: if the true labels are unknown, or all labels are right or all wrong.
    """
    drawn = []
    for _, table, bands, name in _curves(detections):
        found, checked = table["found"].to_numpy(float), table["checked"].to_numpy(float)
        band = pd.DataFrame(
            {"x": bands.checked["x"] * checked[-1]} | {k: bands.checked[k] * found[-1] for k in ("low", "high")}
        )
        drawn.append(_Drawn(checked, found, band, name, found / np.maximum(checked, 1)))
    images, wrong = drawn[0].x[-1], drawn[0].y[-1]
    figure = go.Figure()
    _line(figure, [0, images], [0, wrong], "dot", "random order")
    _line(figure, [0, wrong, images], [0, wrong, wrong], "dash", "ideal order")
    tip = "%{x:,} checked, %{y:,} wrong labels found: %{hovertext}"
    _draw(figure, detections, drawn, tip, legend={"x": 1, "xanchor": "right", "y": 0.02, "yanchor": "bottom"})
    _axes(figure, "images checked", "wrong labels found", images, wrong, ",d")
    return figure


def _curves(detections: Detection | Sequence[Detection]) -> list[tuple[Detection, pd.DataFrame, Bands, str]]:
    """Each detection with its curve, its bands and a name of its own."""
    listed = _list(detections)
    if not listed:
        raise InvalidInput("there is no detection to draw; give one of ic.applications.detect, or several")
    seen: Counter[str] = Counter()
    result = []
    for detection in listed:
        if detection.corrupted is None:
            raise NotSupported("curves need true labels for the training set: LabelledDataset(..., true_labels=...)")
        if detection.checked is None or detection.bands is None:
            kind = "wrong" if bool(detection.corrupted.any()) else "right"
            raise NotSupported(f"curves need right and wrong labels; all {len(detection.corrupted)} here are {kind}")
        name = detection.scores.name
        seen[name] += 1
        number = f" ({seen[name]})" if seen[name] > 1 else ""
        result.append((detection, detection.checked, detection.bands, name + number))
    return result


def _draw(
    figure: go.Figure,
    detections: Detection | Sequence[Detection],
    drawn: list[_Drawn],
    tip: str,
    legend: dict[str, Any],
    shape: str = "linear",
) -> None:
    """Bands at the back, then the curves, then the cuts in use."""
    colours = [_COLOURS[number % len(_COLOURS)] for number in range(len(drawn))]
    for curve, colour in zip(drawn, colours, strict=True):
        x, low, high = (curve.band[k].to_numpy() for k in ("x", "low", "high"))
        figure.add_scatter(
            x=np.concatenate([x, x[::-1]]),
            y=np.concatenate([high, low[::-1]]),
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=translucent(colour, 0.16),
            hoverinfo="skip",
            legendgroup=curve.name,
            showlegend=False,
        )
    cuts = []
    for number, (detection, curve, colour) in enumerate(zip(_list(detections), drawn, colours, strict=True)):
        now = detection.ranking.place(detection.threshold)
        cuts.append((curve.x[now], curve.y[now]))
        kept = _thinned(curve.x, curve.y, now)
        sizes, thresholds = detection.ranking.sizes[kept].tolist(), detection.ranking.thresholds[kept].tolist()
        markers: dict[str, Any] = {}
        if not number:  # the one whose cut a click moves
            same = {"marker": {"opacity": _UNSEEN}}
            # small: of points that the pointer is inside, Plotly takes the last; it finds those near it all the same
            marker = {"size": 6, "opacity": _UNSEEN, "color": colour}
            markers = {"marker": marker, "selected": same, "unselected": same}
        figure.add_scatter(
            x=curve.x[kept],
            y=curve.y[kept],
            mode="lines" if number else "lines+markers",
            line={"color": colour, "width": 2, "shape": shape},
            name=curve.name,
            legendgroup=curve.name,
            # lists: an array of rows would reach the browser as one that a click does not give back as a list
            customdata=[list(row) for row in zip(sizes, thresholds, strict=True)],
            hovertext=None if curve.precision is None else [f"{p:.1%}" for p in curve.precision[kept]],
            hovertemplate=tip + "<br>%{customdata[0]:,} flagged above %{customdata[1]:.4g}<extra></extra>",
            **markers,
        )
    for (x, y), curve, colour in zip(cuts, drawn, colours, strict=True):
        figure.add_scatter(
            x=[x],
            y=[y],
            mode="markers",
            marker={"color": FLAGGED, "size": 11, "line": {"color": colour, "width": 2}},
            unselected={"marker": {"opacity": 1}},
            legendgroup=curve.name,
            showlegend=False,
            hoverinfo="skip",  # the curve has a point here, which tells
        )
    style(figure, **(SMALL | {"legend": SMALL["legend"] | {"orientation": "v"} | legend}))


def _line(figure: go.Figure, x: Sequence[float], y: Sequence[Any], dash: str, name: str | None = None) -> None:
    """A line to compare with, which a click goes through."""
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": QUIET, "dash": dash, "width": 1.5},
        hoverinfo="skip",
        name=name,
        showlegend=name is not None,
    )


def _axes(figure: go.Figure, x: str, y: str, width: float = 1.0, height: float = 1.0, form: str = ".0%") -> None:
    """Titles near the axes, and a little room around the ends."""
    spare = {"x": [-0.015 * width, 1.015 * width], "y": [-0.02 * height, 1.04 * height]}
    figure.update_xaxes(title={"text": x, "standoff": 4}, range=spare["x"], tickformat=form)
    figure.update_yaxes(title={"text": y, "standoff": 8}, range=spare["y"], tickformat=form)


def _thinned(x: Floats, y: Floats, keep: int) -> NDArray[np.intp]:
    """Places of a curve's points that are drawn: half of them even along its length, half along its first axis.

    Args:
        x: rising, [n].
        y: [n]; NaN is not drawn.
        keep: a point that is always there, as both ends are.

    Returns:
        Rising places, at most about ``_MOST_POINTS``.
    """
    places = np.flatnonzero(np.isfinite(y))
    if len(places) > _MOST_POINTS:
        px, py = x[places] / np.ptp(x), y[places] / max(np.ptp(y[places]), 1e-12)
        length = np.append(0.0, np.hypot(np.diff(px), np.diff(py)).cumsum())
        along = np.linspace(0.0, 1.0, (_MOST_POINTS - 1) // 2)
        even = [np.searchsorted(a, a[0] + along * (a[-1] - a[0])) for a in (length, px)]
        chosen = np.append(np.concatenate(even), [0, len(places) - 1]).clip(0, len(places) - 1)
        places = places[np.unique(chosen)]
    return np.union1d(places, [keep]) if np.isfinite(y[keep]) else places


def _list(detections: Detection | Sequence[Detection]) -> list[Detection]:
    return [detections] if isinstance(detections, Detection) else list(detections)
