"""Plotly figures. The app and a notebook show the same ones.

Every function returns a ``plotly.graph_objects.Figure`` with a transparent background, so that it suits light and dark.
"""

from influence_core.figures.confusion import confusion_matrix
from influence_core.figures.curves import precision_recall, roc
from influence_core.figures.explanation import explanation_strip
from influence_core.figures.histogram import score_histogram
from influence_core.figures.style import FLAGGED, HARMFUL, HELPFUL, MAIN, QUIET

__all__ = [
    "FLAGGED",
    "HARMFUL",
    "HELPFUL",
    "MAIN",
    "QUIET",
    "confusion_matrix",
    "explanation_strip",
    "precision_recall",
    "roc",
    "score_histogram",
]
