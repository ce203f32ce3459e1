"""Curvature of the mean loss: products, factors, solvers. Knows tensors and modules, no datasets.

Products with the Hessian, the Gauss-Newton and Fisher matrices are streamed over the data, for several vectors at once;
``KFAC`` fits Kronecker factors; the solvers report their residual. What multiplies by an inverse is in ``inverses``.

This package does not stand on curvlinops (3.0.1 was looked at), though its linear operators are the model for ours: it
brings five further packages; its K-FAC averages the patches of a convolution with groups, which is not that layer's
Fisher matrix; and the sweep of ``influence_core.gradients`` already hands out, for every layer type, the per-sample
gradients that EK-FAC's eigenvalues and several uses of one module need.
"""

from influence_core.curvature import inverses
from influence_core.curvature.ascent import Ascent, check_radius
from influence_core.curvature.conjugate import conjugate_gradient
from influence_core.curvature.gmres import gmres
from influence_core.curvature.inverses.kronecker import KroneckerInverse
from influence_core.curvature.kfac import KFAC, Eigenbasis
from influence_core.curvature.kronecker import Layer
from influence_core.curvature.labels import LabelScore, label_scores, label_slopes, squared_norms_of_labels
from influence_core.curvature.lanczos import Eigenpairs, lanczos, largest_eigenvalue
from influence_core.curvature.least_squares import Columns, LeastSquares, solve_lsqr, solve_series
from influence_core.curvature.neumann import neumann
from influence_core.curvature.operators import (
    CurvatureName,
    Fisher,
    GaussNewton,
    Hessian,
    Operator,
    mean_diagonal,
    operator,
)
from influence_core.curvature.outputs import Draw, at_outputs, linear_loss, output_gradient, output_hessian
from influence_core.curvature.perturbed import climbed
from influence_core.curvature.solution import Product, Solution
from influence_core.curvature.vectors import Shapes, Vectors, flatten, unflatten

__all__ = [
    "KFAC",
    "Ascent",
    "Columns",
    "CurvatureName",
    "Draw",
    "Eigenbasis",
    "Eigenpairs",
    "Fisher",
    "GaussNewton",
    "Hessian",
    "KroneckerInverse",
    "LabelScore",
    "Layer",
    "LeastSquares",
    "Operator",
    "Product",
    "Shapes",
    "Solution",
    "Vectors",
    "at_outputs",
    "check_radius",
    "climbed",
    "conjugate_gradient",
    "flatten",
    "gmres",
    "inverses",
    "label_scores",
    "label_slopes",
    "lanczos",
    "largest_eigenvalue",
    "linear_loss",
    "mean_diagonal",
    "neumann",
    "operator",
    "output_gradient",
    "output_hessian",
    "solve_lsqr",
    "solve_series",
    "squared_norms_of_labels",
    "unflatten",
]
