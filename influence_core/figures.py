"""Plotly figures. The app and a notebook show the same ones.

Every function returns a ``plotly.graph_objects.Figure`` with a transparent background, so that it suits light and dark.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from influence_core.applications.detection import Detection, heavy_tailed
from influence_core.data import LabelledDataset
from influence_core.errors import NotSupported
from influence_core.pictures import data_url
from influence_core.scores import Scores
from influence_core.study import Study

HARMFUL, HELPFUL, FLAGGED, MAIN, QUIET = "#d55e00", "#009e73", "#e69f00", "#3f6fd8", "#8a8f98"
"""Colours that stay apart for colour-blind eyes (Okabe and Ito), used for the same thing everywhere."""

_MOST_POINTS = 2000


def roc(detections: Detection | Sequence[Detection]) -> go.Figure:
    """ROC curves; the pointer shows the threshold, and a marker the one in use.

    Args:
        detections: one, or several to compare.

    Returns:
        The figure.

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
        detections: one, or several to compare.

    Returns:
        The figure.

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


def score_histogram(scores: Scores, threshold: float | None = None) -> go.Figure:
    """Histogram of one score per training image, on a logarithmic axis where the tail is heavy.

    Args:
        scores: mislabel or self-influence scores.
        threshold: drawn as a line.

    Returns:
        The figure; where true labels are known, right and wrong labels are apart.
    """
    values = scores.column().double().numpy()
    logarithmic = heavy_tailed(scores.values)
    x = np.log10(np.maximum(values, values.max() * 1e-12)) if logarithmic else values
    edges = np.linspace(x.min(), x.max(), 61) if x.min() < x.max() else np.array([x.min() - 0.5, x.max() + 0.5])
    wrong = None if scores.train is None else scores.train.corrupted
    groups = [("training images", np.ones(len(x), bool), MAIN)]
    if wrong is not None:
        mask = wrong[scores.train_ids].numpy()
        groups = [("label right", ~mask, MAIN), ("label wrong", mask, HARMFUL)]
    figure = go.Figure()
    for name, mask, colour in groups:
        counts, _ = np.histogram(x[mask], edges)
        low, high = (10**edges, 10**edges) if logarithmic else (edges, edges)
        ranges = [f"{a:.3g} to {b:.3g}" for a, b in zip(low[:-1], high[1:], strict=True)]
        figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts,
            width=np.diff(edges),
            name=name,
            marker={"color": colour, "opacity": 0.85, "line": {"width": 0}},
            customdata=ranges,
            hovertemplate="%{y} images<br>score %{customdata}<extra>" + name + "</extra>",
        )
    if threshold is not None:
        at = float(np.log10(max(threshold, values.max() * 1e-12))) if logarithmic else threshold
        figure.add_vline(at, line={"color": FLAGGED, "width": 2}, annotation={"text": f"threshold {threshold:.3g}"})
    _style(figure, barmode="stack")
    figure.update_yaxes(title="images")
    figure.update_xaxes(title=f"{scores.name} score" + (" (logarithmic)" if logarithmic else ""))
    if logarithmic:
        ticks = np.arange(np.floor(edges[0]), np.ceil(edges[-1]) + 1)
        ticks = ticks[:: max(1, len(ticks) // 8)]
        figure.update_xaxes(
            tickvals=ticks, ticktext=[f"10<sup>{t:.0f}</sup>" for t in ticks], range=[edges[0], edges[-1]]
        )
    return figure


def confusion_matrix(study: Study, split: str = "test") -> go.Figure:
    """Confusion matrix of squares that can be clicked; ``customdata`` of a square is (label, prediction, count).

    Args:
        study: the study.
        split: which dataset.

    Returns:
        The figure: right answers in blue, mistakes in orange, stronger where there are more.
    """
    k = study.num_classes
    names = [html.escape(name, quote=False) for name in study.class_names]
    counts = np.zeros((k, k), dtype=int)
    np.add.at(counts, (study.split(split).labels.numpy(), study.predictions(split).numpy()), 1)
    true, predicted = counts.nonzero()
    number = counts[true, predicted]
    right = true == predicted
    most = np.where(right, counts.diagonal().max(initial=1), max(1, (counts - np.diag(counts.diagonal())).max()))
    figure = go.Figure(
        go.Scatter(
            x=predicted,
            y=true,
            mode="markers+text",
            text=[str(n) for n in number],
            textfont={"size": 11},
            customdata=np.stack([true, predicted, number], axis=1),
            marker={
                "symbol": "square",
                "size": max(8, min(26, 260 // k)),
                "color": np.where(right, MAIN, HARMFUL),
                "opacity": 0.15 + 0.4 * number / most,
            },
            hovertemplate="%{customdata[2]} images<br>label %{y}, predicted %{x}<extra></extra>",
        )
    )
    _style(figure, height=360, showlegend=False, margin={"l": 10, "r": 10, "t": 10, "b": 10})
    figure.update_xaxes(title="predicted", range=[-0.6, k - 0.4])
    figure.update_yaxes(title="label", range=[k - 0.4, -0.6])
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(tickvals=list(range(k)), ticktext=names, showgrid=False, zeroline=False)
    return figure


def explanation_strip(study: Study, scores: Scores, test_id: int, k: int = 5) -> go.Figure:
    """One test image with its most harmful and most helpful training images.

    Args:
        study: the study.
        scores: influence scores that have a column for ``test_id``.
        test_id: the test image.
        k: how many training images on each side.

    Returns:
        The figure; a training image whose label is known to be wrong has an orange frame.
    """
    test, train = study.test, study.train
    true, predicted = int(test.labels[test_id]), int(study.predictions()[test_id])
    figure = go.Figure()
    confidence = float(study.probabilities()[test_id, predicted])
    _picture(figure, 0.0, 0.75, data_url(test, test_id, 128), None)
    _caption(
        figure,
        0.0,
        0.75,
        f"test image {test_id}<br>{_name(test, true)} → {_name(test, predicted)} ({confidence:.0%})",
    )
    for row, (title, frame, colour) in enumerate(
        (("harmful", scores.harmful(test_id, k), HARMFUL), ("helpful", scores.helpful(test_id, k), HELPFUL))
    ):
        y = 1.5 - 1.5 * row
        figure.add_annotation(
            x=1.35, y=y + 1.12, text=f"<b>most {title}</b>", showarrow=False, xanchor="left", font={"color": colour}
        )
        for column, item in enumerate(frame.to_dict("records")):
            index = int(item["train_id"])
            wrong = train.corrupted is not None and bool(train.corrupted[index])
            _picture(figure, 1.35 + 1.1 * column, y, data_url(train, index, 128), FLAGGED if wrong else None)
            label = _name(train, int(train.labels[index]))
            _caption(figure, 1.35 + 1.1 * column, y, f"<b>{label}</b> #{index}<br>{item['score']:.3g}")
    figure.update_xaxes(visible=False, range=[-0.1, 1.35 + 1.1 * k])
    figure.update_yaxes(visible=False, range=[-0.45, 2.75], scaleanchor="x")
    _style(figure, height=430, margin={"l": 0, "r": 0, "t": 10, "b": 10})
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
    _style(figure, legend={"orientation": "v", "bgcolor": "rgba(0,0,0,0)", **corner})
    figure.update_xaxes(range=[-0.01, 1.01], tickformat=".0%")
    figure.update_yaxes(range=[-0.01, 1.02], tickformat=".0%")
    return figure


def _name(data: LabelledDataset, label: int) -> str:
    """Name of a class as text: Plotly reads some HTML."""
    return html.escape(data.class_name(label), quote=False)


def _list(detections: Detection | Sequence[Detection]) -> list[Detection]:
    return [detections] if isinstance(detections, Detection) else list(detections)


def _picture(figure: go.Figure, x: float, y: float, source: str, frame: str | None) -> None:
    figure.add_layout_image(source=source, xref="x", yref="y", x=x, y=y + 1, sizex=1, sizey=1, sizing="contain")
    if frame is not None:
        figure.add_shape(type="rect", x0=x, y0=y, x1=x + 1, y1=y + 1, line={"color": frame, "width": 3})


def _caption(figure: go.Figure, x: float, y: float, text: str) -> None:
    figure.add_annotation(x=x + 0.5, y=y, text=text, showarrow=False, yanchor="top", font={"size": 12})


def _style(figure: go.Figure, **layout: object) -> None:
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
