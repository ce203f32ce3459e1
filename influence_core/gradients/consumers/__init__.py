"""Consumers: what a sweep can compute on its way, one idea a file."""

from influence_core.gradients.consumers.features import Projections
from influence_core.gradients.consumers.gradients import Gradients
from influence_core.gradients.consumers.inner_products import InnerProducts
from influence_core.gradients.consumers.moments import MeanGradient, MeanSquares
from influence_core.gradients.consumers.norms import SquaredNorms

__all__ = ["Gradients", "InnerProducts", "MeanGradient", "MeanSquares", "Projections", "SquaredNorms"]
