"""Inverse curvatures: objects that multiply by ``(H + (lambda + delta) I)^-1``, one way of having it a file.

Made from a model, a loss and data by ``fit``, or by name through ``InverseSpec``; estimators choose among them, and an
iterative one can be preconditioned by another.
"""

from influence_core.curvature.inverses.base import (
    InverseCurvature,
    Solved,
    check_count,
    check_damping,
    check_solve,
    worst,
)
from influence_core.curvature.inverses.cholesky import CholeskyInverse
from influence_core.curvature.inverses.conjugate_gradients import ConjugateGradients
from influence_core.curvature.inverses.dense import DenseInverse
from influence_core.curvature.inverses.diagonal import DiagonalInverse
from influence_core.curvature.inverses.eigenpairs import LeadingEigenpairs
from influence_core.curvature.inverses.kronecker import KroneckerInverse
from influence_core.curvature.inverses.mean_of_inverses import MeanOfInverses
from influence_core.curvature.inverses.moving_ascent import MovingAscent, Variant
from influence_core.curvature.inverses.neumann_series import NeumannSeries
from influence_core.curvature.inverses.nystrom import NystromInverse
from influence_core.curvature.inverses.probes import Probes
from influence_core.curvature.inverses.spec import INVERSES, InverseSpec, check_preconditioner, spec

__all__ = [
    "INVERSES",
    "CholeskyInverse",
    "ConjugateGradients",
    "DenseInverse",
    "DiagonalInverse",
    "InverseCurvature",
    "InverseSpec",
    "KroneckerInverse",
    "LeadingEigenpairs",
    "MeanOfInverses",
    "MovingAscent",
    "NeumannSeries",
    "NystromInverse",
    "Probes",
    "Solved",
    "Variant",
    "check_count",
    "check_damping",
    "check_preconditioner",
    "check_solve",
    "spec",
    "worst",
]
