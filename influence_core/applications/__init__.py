"""What scores are for: finding wrong labels, suggesting right ones, putting them back, and measuring what it gained.

The table of suggestions goes through a CSV file, on which a person decides: ``write_relabels`` writes it,
``read_relabels`` reads it back and refuses any other CSV, ``apply_relabels`` puts the decisions into the data.
``write_csv`` and ``read_csv`` are earlier names of the first two.

``mend`` goes all the way in one call, from the mistakes to a mended model and what it gained. ``what_if`` predicts what
removing, relabelling or reweighting does, and ``receipts`` keep what training showed of such predictions.
``removal_curves`` and ``prune`` leave out more and more images, by whose order you like, and train again.
``compare_edits`` edits a model instead, by several estimators side by side, and sets them beside one trained again.
"""

from influence_core.applications.bootstrap import Bands, Interval
from influence_core.applications.budgets import budgets
from influence_core.applications.detection import Detection, detect
from influence_core.applications.editing import compare_edits
from influence_core.applications.editing_report import Edits
from influence_core.applications.label_probabilities import LabelProbabilities
from influence_core.applications.mended_files import Mended, mend_files, read_mended
from influence_core.applications.mending import mend, mending_trainings
from influence_core.applications.mending_report import Mending
from influence_core.applications.mixture import mixture
from influence_core.applications.paired import Gain, paired
from influence_core.applications.rank_mean import rank_mean
from influence_core.applications.receipt import Receipt, receipts
from influence_core.applications.receipt_calibration import Calibration, calibration, in_range
from influence_core.applications.relabel_csv import read_csv, to_csv, write_csv
from influence_core.applications.relabelling import apply_relabels, relabel, relabel_table, suggestions
from influence_core.applications.reliability import Reliability, reliability
from influence_core.applications.removal import prune, removal_curves
from influence_core.applications.removal_report import Removals
from influence_core.applications.retraining import Retraining, retrain
from influence_core.applications.soft_labels import soft_cross_entropy, soft_labels
from influence_core.applications.thresholds import heavy_tailed, otsu
from influence_core.applications.trainings import Outcome
from influence_core.applications.trusted_step import trusted_step
from influence_core.applications.whatif import expected_what_if, what_if
from influence_core.applications.whatif_report import WhatIf

read_relabels, write_relabels = read_csv, write_csv

__all__ = [
    "Bands",
    "Calibration",
    "Detection",
    "Edits",
    "Gain",
    "Interval",
    "LabelProbabilities",
    "Mended",
    "Mending",
    "Outcome",
    "Receipt",
    "Reliability",
    "Removals",
    "Retraining",
    "WhatIf",
    "apply_relabels",
    "budgets",
    "calibration",
    "compare_edits",
    "detect",
    "expected_what_if",
    "heavy_tailed",
    "in_range",
    "mend",
    "mend_files",
    "mending_trainings",
    "mixture",
    "otsu",
    "paired",
    "prune",
    "rank_mean",
    "read_csv",
    "read_mended",
    "read_relabels",
    "receipts",
    "relabel",
    "relabel_table",
    "reliability",
    "removal_curves",
    "retrain",
    "soft_cross_entropy",
    "soft_labels",
    "suggestions",
    "to_csv",
    "trusted_step",
    "what_if",
    "write_csv",
    "write_relabels",
]
