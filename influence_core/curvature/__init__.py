"""Curvature of the mean loss: products, factors, solvers. Knows tensors and modules, no datasets.

Products with the Hessian, the Gauss-Newton and Fisher matrices are streamed over the data, for several vectors at once;
``KFAC`` keeps a Kronecker-factored inverse; the solvers report their residual.

This package does not stand on curvlinops, though its linear operators are the model for ours. Its K-FAC knows one factor
pair per layer from its own hooks, while the sweep of ``influence_core.gradients`` already hands out, in one pass and for
every layer type, the true per-sample gradients that the corrected eigenvalues of EK-FAC, uses of one module several
times, and convolutions with groups need; and solving for many test images wants one residual for each right-hand side.
"""

from influence_core.curvature.lanczos import Eigenpairs, lanczos, largest_eigenvalue
from influence_core.curvature.operators import Fisher, GaussNewton, Hessian, Kind, Operator, mean_diagonal, operator
from influence_core.curvature.outputs import Draw, at_outputs, linear_loss, output_hessian
from influence_core.curvature.solvers import Product, Solution, conjugate_gradient, gmres, neumann
from influence_core.curvature.vectors import Shapes, Vectors, flatten, unflatten

__all__ = [
    "Draw",
    "Eigenpairs",
    "Fisher",
    "GaussNewton",
    "Hessian",
    "Kind",
    "Operator",
    "Product",
    "Shapes",
    "Solution",
    "Vectors",
    "at_outputs",
    "conjugate_gradient",
    "flatten",
    "gmres",
    "lanczos",
    "largest_eigenvalue",
    "linear_loss",
    "mean_diagonal",
    "neumann",
    "operator",
    "output_hessian",
    "unflatten",
]
