"""Per-sample gradients at close to the price of a plain backward pass.

``sweep`` passes once over a dataset and serves any number of consumers: inner products with other gradients, norms,
projections, means, the gradients themselves. The functions below it are shorthands for one consumer each. In order:

1. ``selection`` chooses parameters, on a private copy of the model (``influence_core.models.private``);
2. ``plan`` assigns each to a *station*, a module with a layer rule, or to the fallback by ``torch.func``;
3. ``probe`` tries the plan on two samples against plain autograd, and mends it; what fell back the report names;
4. ``tape`` records, batch by batch, what goes into every station and the gradient that comes back to what came out;
5. a *rule* (``rules``) turns a call so recorded into
6. a *form* (``forms``): the per-sample gradients of one parameter, not yet multiplied out;
7. a *block* (``block``) holds those of the parameters that arrive together, and forms them at most once;
8. a *consumer* (``consumers``) takes from it what it adds up.

A model is called with one batch, ``model(inputs)``. Several inputs are a ``Bundle`` (``influence_core.inputs``), which
``models.adapted(model)`` takes; it also gives the tensor of an answer that is an object. Positions that a batch pads
change no number, as long as the model heeds their mask.
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
from influence_core.gradients.contexts import no_autocast, plain_attention
from influence_core.gradients.coverage import RuleCoverage
from influence_core.gradients.data import Batched, Data, Labelled, MapStyle, Samples, labelled
from influence_core.gradients.forms import Convolution, Form, Sum
from influence_core.gradients.functions import (
    inner_products,
    mean_gradient,
    mean_squares,
    per_sample_gradients,
    project,
    squared_norms,
)
from influence_core.gradients.guards import check_model
from influence_core.gradients.metrics import DiagonalMetric, Metric
from influence_core.gradients.output_gram import output_grams
from influence_core.gradients.output_jacobians import output_jacobians
from influence_core.gradients.projections import DenseProjection, FactoredProjection, Projection, SketchProjection
from influence_core.gradients.queries import Queries
from influence_core.gradients.selection import Choice, Selection, select
from influence_core.gradients.sharing import Meeting
from influence_core.gradients.sweep import SweepReport, coverage, planned, sweep
from influence_core.gradients.types import GradientError, Loss, MixedSamplesError, SelectionError

__all__ = [
    "Batched",
    "Block",
    "Choice",
    "Consumer",
    "Convolution",
    "Data",
    "DenseProjection",
    "DiagonalMetric",
    "FactoredProjection",
    "Form",
    "GradientError",
    "Gradients",
    "InnerProducts",
    "Labelled",
    "Loss",
    "MapStyle",
    "MeanGradient",
    "MeanSquares",
    "Meeting",
    "Metric",
    "MixedSamplesError",
    "Projection",
    "Projections",
    "Queries",
    "RuleCoverage",
    "SampleGradients",
    "Samples",
    "Selection",
    "SelectionError",
    "SketchProjection",
    "SquaredNorms",
    "Sum",
    "SweepContext",
    "SweepReport",
    "check_model",
    "coverage",
    "inner_products",
    "labelled",
    "mean_gradient",
    "mean_squares",
    "no_autocast",
    "output_grams",
    "output_jacobians",
    "per_sample_gradients",
    "plain_attention",
    "planned",
    "project",
    "select",
    "squared_norms",
    "sweep",
]
