"""Random projections of gradients."""

from influence_core.gradients.projections.base import Projection
from influence_core.gradients.projections.dense import DenseProjection
from influence_core.gradients.projections.factored import FactoredProjection
from influence_core.gradients.projections.sketch import SketchProjection

__all__ = ["DenseProjection", "FactoredProjection", "Projection", "SketchProjection"]
