"""What estimators are worth against what they cost."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from influence_core.errors import InvalidInput, NotSupported
from influence_core.evaluation.comparison import Comparison
from influence_core.evaluation.sheet import columns_of
from influence_core.figures.style import MAIN, QUIET, SMALL, style
from influence_core.figures.text import as_lines, as_text

_INFLUENCE, _MISLABEL = "influence_seconds", "mislabel_seconds"
_SOONEST = 1e-3
"""Seconds that the axis begins with: it is logarithmic, and some answers take no time."""


class _Measure(NamedTuple):
    """What can be drawn.

    Attributes:
        unit: of its columns.
        title: of the axis.
        answer: the column with the seconds of the answer.
        level: what knowing nothing gives, where that is a number.
    """

    unit: str
    title: str
    answer: str
    level: float | None = 0.0


MEASURES = {
    "lds": _Measure("percent", "linear datamodelling score, %", _INFLUENCE),
    "leave_one_out": _Measure("percent", "rank correlation with leave-one-out, %", _INFLUENCE),
    "ap": _Measure("percent", "average precision of wrong labels, %", _MISLABEL, None),
    "auc": _Measure("percent", "area under the ROC curve, %", _MISLABEL, 50.0),
    "helpful_removed": _Measure("nats", "loss without the most helpful, nats against random", _INFLUENCE),
    "harmful_removed": _Measure("nats", "loss without the most harmful, nats against random", _INFLUENCE),
    "correlation_with_others": _Measure("percent", "rank correlation with the others, %", _INFLUENCE),
}
"""What there is to draw, in the order in which the first is taken that was measured."""


def comparison(report: Comparison, measure: str | None = None) -> go.Figure:
    """One measure of each estimator against its seconds of fit and answer, with 95 % intervals.

    Args:
        report: of ``ic.evaluation.compare``.
        measure: "lds", "leave_one_out", "ap", "auc", "helpful_removed", "harmful_removed" or
            "correlation_with_others"; by default the first of these that was measured.

    Returns:
        A marker with its name for each estimator that has a number; ``customdata`` is its name. Seconds are
        logarithmic; where they were not measured, the estimators stand side by side. A dotted line is what knowing
        nothing gives.

    Raises:
        InvalidInput: if there is no such measure.
        NotSupported: if no estimator has it.
    """
    if measure is not None and measure not in MEASURES:
        raise InvalidInput(f"there is no measure {measure!r}; choose one of {', '.join(MEASURES)}")
    there = [name for name in MEASURES if _rows(report, name) is not None]
    name = measure or next(iter(there), None)
    rows = None if name is None else _rows(report, name)
    if name is None or rows is None:
        has = f"it has {', '.join(there)}" if there else "it has no measure at all"
        raise NotSupported(f"{report!r} has no {measure or 'number to draw'}; {has}")
    drawn = MEASURES[name]
    value, low, high = (rows[column].to_numpy(float) for column in _columns(rows, name))
    timed = {"fit_seconds", drawn.answer} <= {*rows.columns}
    seconds = rows[["fit_seconds", drawn.answer]].sum(axis=1).to_numpy() if timed else np.full(len(rows), np.nan)
    names = [as_text(n, 24) for n in rows["estimator"]]
    figure = go.Figure()
    if drawn.level is not None:
        figure.add_hline(y=drawn.level, line={"color": QUIET, "dash": "dot", "width": 1.5})
    figure.add_scatter(
        x=np.maximum(seconds, _SOONEST) if timed else names,
        y=value,
        mode="markers+text",
        text=names,
        textposition="top center",
        textfont={"size": 11},
        cliponaxis=False,
        marker={"color": MAIN, "size": 9},
        error_y={
            "type": "data",
            "array": np.nan_to_num(high - value),
            "arrayminus": np.nan_to_num(value - low),
            "color": QUIET,
            "thickness": 1.2,
        },
        customdata=[[n] for n in rows["estimator"]],
        hovertext=[
            f"{as_lines(n)}<br>{v:.3g}{'' if np.isnan(lo) else f' (95 %: {lo:.3g} to {hi:.3g})'}"
            f"{'' if np.isnan(s) else f'<br>{s:.2g} s'}"
            for n, v, lo, hi, s in zip(rows["estimator"], value, low, high, seconds, strict=True)
        ],
        hovertemplate="%{hovertext}<extra></extra>",
        showlegend=False,
    )
    style(figure, **(SMALL | {"height": 360, "margin": {"l": 4, "r": 30, "t": 20, "b": 4}}))
    figure.update_yaxes(title={"text": drawn.title, "standoff": 8})
    if timed:
        figure.update_xaxes(title={"text": "seconds of fit and answer", "standoff": 4}, type="log")
    return figure


def _columns(rows: pd.DataFrame, name: str) -> list[str]:
    """Number, low and high; the number itself where it has no interval."""
    columns = columns_of(name, MEASURES[name].unit)
    return [column if column in rows.columns else columns[0] for column in columns]


def _rows(report: Comparison, name: str) -> pd.DataFrame | None:
    """The rows that have a number, if any has."""
    column = columns_of(name, MEASURES[name].unit)[0]
    if column not in report.table.columns:
        return None
    rows = report.table[report.table[column].notna()]
    return rows if len(rows) else None
