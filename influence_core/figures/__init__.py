"""Plotly figures. The app and a notebook show the same ones.

Every function returns a ``plotly.graph_objects.Figure`` with a transparent background, so that it suits light and dark.
"""

from influence_core.figures.comparison import comparison
from influence_core.figures.confusion import confusion_matrix
from influence_core.figures.curves import detection_curve, precision_recall, roc
from influence_core.figures.edits import edits
from influence_core.figures.explanation import explanation_strip
from influence_core.figures.gains import gains
from influence_core.figures.histogram import score_histogram
from influence_core.figures.overlap import overlap
from influence_core.figures.predicted import predicted_and_actual
from influence_core.figures.reliability import reliability
from influence_core.figures.removal import removal
from influence_core.figures.side_by_side import side_by_side
from influence_core.figures.style import FLAGGED, HARMFUL, HELPFUL, MAIN, QUIET
from influence_core.figures.text import as_text

__all__ = [
    "FLAGGED",
    "HARMFUL",
    "HELPFUL",
    "MAIN",
    "QUIET",
    "as_text",
    "comparison",
    "confusion_matrix",
    "detection_curve",
    "edits",
    "explanation_strip",
    "gains",
    "overlap",
    "precision_recall",
    "predicted_and_actual",
    "reliability",
    "removal",
    "roc",
    "score_histogram",
    "side_by_side",
]
