"""What scores are for: finding wrong labels, suggesting right ones, and putting them back into the data."""

from influence_core.applications.detection import Detection, Interval, detect, heavy_tailed, otsu
from influence_core.applications.relabel_csv import read_csv, to_csv, write_csv
from influence_core.applications.relabelling import apply_relabels, relabel, relabel_table

__all__ = [
    "Detection",
    "Interval",
    "apply_relabels",
    "detect",
    "heavy_tailed",
    "otsu",
    "read_csv",
    "relabel",
    "relabel_table",
    "to_csv",
    "write_csv",
]
