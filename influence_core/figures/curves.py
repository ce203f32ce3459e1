"""ROC and precision-recall curves of one detection or several."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from influence_core.applications.detection import Detection
from influence_core.errors import NotSupported
from influence_core.figures.style import FLAGGED, HARMFUL, HELPFUL, MAIN, QUIET, style

_MOST_POINTS = 2000


def roc(detections: Detection | Sequence[Detection]) -> go.Figure:
    """ROC curves; the pointer shows the threshold, and a marker the one in use.

    Args:
        detections: one, or several to compare.

    Returns:
        Straight lines, under which the area is the AUC of the legend, and a dotted diagonal for a random order.

    Raises:
        NotSupported: if the true labels are unknown.
    """
    figure = _curves(detections, "roc", "false_positive_rate", "true_positive_rate", "auc")
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": QUIET, "dash": "dot"}, hoverinfo="skip", showlegend=False
    )
    figure.update_xaxes(title="right labels flagged (false positive rate)")
    figure.update_yaxes(title="wrong labels found (recall)")
    return figure


def precision_recall(detections: Detection | Sequence[Detection]) -> go.Figure:
    """Precision-recall curves; the pointer shows the threshold, and a marker the one in use.

    Args:
        detections: one, or several to compare; the share of wrong labels is taken to be that of the first.

    Returns:
        Steps, under which the area is the AP of the legend, and a dotted line at the precision of a random order.

    Raises:
        NotSupported: if the true labels are unknown.
    """
    figure = _curves(detections, "pr", "recall", "precision", "ap")
    first = _list(detections)[0]
    share = float(first.corrupted.double().mean()) if first.corrupted is not None else 0.0
    figure.add_hline(share, line={"color": QUIET, "dash": "dot"})
    figure.update_xaxes(title="wrong labels found (recall)")
    figure.update_yaxes(title="flags that are right (precision)")
    return figure


def _curves(detections: Detection | Sequence[Detection], table: str, x: str, y: str, area: str) -> go.Figure:
    figure = go.Figure()
    colours = (MAIN, HARMFUL, HELPFUL, FLAGGED, "#cc79a7", "#56b4e9", "#8c6d31", QUIET)
    for number, detection in enumerate(_list(detections)):
        frame = getattr(detection, table)
        if frame is None:
            raise NotSupported("curves need true labels for the training set: LabelledDataset(..., true_labels=...)")
        step = max(1, len(frame) // _MOST_POINTS)
        shown = frame.iloc[sorted({*range(0, len(frame), step), len(frame) - 1})]
        colour = colours[number % len(colours)]
        name = f"{detection.scores.name} ({area.upper()} {100 * getattr(detection, area):.1f})"
        figure.add_scatter(
            x=shown[x],
            y=shown[y],
            mode="lines",
            # the areas in the legend: trapezia under the ROC curve, and steps for average precision
            line={"color": colour, "width": 2, "shape": "linear" if table == "roc" else "hv"},
            name=name,
            customdata=shown["threshold"],
            hovertemplate="%{xaxis.title.text} %{x:.1%}<br>%{yaxis.title.text} %{y:.1%}"
            "<br>threshold %{customdata:.4g}<extra></extra>",
        )
        now = detection.at(detection.threshold)
        negatives = float((~detection.corrupted).sum()) if detection.corrupted is not None else 1.0
        false_positive_rate = now["flagged"] * (1 - now["precision"]) / max(1.0, negatives)
        point = (false_positive_rate, now["recall"]) if table == "roc" else (now["recall"], now["precision"])
        figure.add_scatter(
            x=[point[0]],
            y=[point[1]],
            mode="markers",
            marker={"color": FLAGGED, "size": 11, "line": {"color": colour, "width": 2}},
            showlegend=False,
            hovertemplate=f"threshold in use {detection.threshold:.4g}<br>%{{x:.1%}}, %{{y:.1%}}<extra></extra>",
        )
    side = "right" if table == "roc" else "left"  # the corner that good curves leave free
    corner = {
        "x": 0.97 if side == "right" else 0.03,
        "y": 0.08 if side == "right" else 0.16,
        "xanchor": side,
        "yanchor": "bottom",
    }
    style(figure, legend={"orientation": "v", "bgcolor": "rgba(0,0,0,0)", **corner})
    figure.update_xaxes(range=[-0.01, 1.01], tickformat=".0%")
    figure.update_yaxes(range=[-0.01, 1.02], tickformat=".0%")
    return figure


def _list(detections: Detection | Sequence[Detection]) -> list[Detection]:
    return [detections] if isinstance(detections, Detection) else list(detections)
