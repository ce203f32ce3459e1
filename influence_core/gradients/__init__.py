"""Per-sample gradients at close to the price of a plain backward pass.

``sweep`` passes once over a dataset and serves any number of consumers: inner products with other gradients, norms,
projections, means, the gradients themselves. The functions below it are shorthands for one consumer each. Layer rules
turn recorded inputs and output gradients into gradients (``rules``); what has no rule falls back to ``torch.func`` and
is named in the report's coverage.
"""

from influence_core.gradients.block import Block, Consumer, SampleGradients, SweepContext
from influence_core.gradients.consumers import (
    Gradients,
    InnerProducts,
    MeanGradient,
    MeanSquares,
    Projections,
    SquaredNorms,
)
from influence_core.gradients.coverage import Coverage
from influence_core.gradients.functions import (
    inner_products,
    mean_gradient,
    mean_squares,
    per_sample_gradients,
    project,
    squared_norms,
)
from influence_core.gradients.guards import check_model
from influence_core.gradients.metrics import DiagonalMetric, KroneckerFactors, KroneckerMetric, Metric
from influence_core.gradients.output_gram import output_grams
from influence_core.gradients.projections import DenseProjection, FactoredProjection, Projection, SketchProjection
from influence_core.gradients.queries import Queries
from influence_core.gradients.recording import Recording, record
from influence_core.gradients.selection import Choice, Selection, select
from influence_core.gradients.sweep import SweepReport, coverage, sweep
from influence_core.gradients.types import GradientError, Loss, MixedSamplesError, Progress, SelectionError

__all__ = [
    "Block",
    "Choice",
    "Consumer",
    "Coverage",
    "DenseProjection",
    "DiagonalMetric",
    "FactoredProjection",
    "GradientError",
    "Gradients",
    "InnerProducts",
    "KroneckerFactors",
    "KroneckerMetric",
    "Loss",
    "MeanGradient",
    "MeanSquares",
    "Metric",
    "MixedSamplesError",
    "Progress",
    "Projection",
    "Projections",
    "Queries",
    "Recording",
    "SampleGradients",
    "Selection",
    "SelectionError",
    "SketchProjection",
    "SquaredNorms",
    "SweepContext",
    "SweepReport",
    "check_model",
    "coverage",
    "inner_products",
    "mean_gradient",
    "mean_squares",
    "output_grams",
    "per_sample_gradients",
    "project",
    "record",
    "select",
    "squared_norms",
    "sweep",
]
