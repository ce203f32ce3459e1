"""Per-sample gradients: inner products, norms, moments, and the gradients themselves."""

from influence_core.gradients.per_sample import (
    check_scorable,
    inner_products,
    mean_squares,
    per_sample_gradients,
    squared_norms,
)

__all__ = ["check_scorable", "inner_products", "mean_squares", "per_sample_gradients", "squared_norms"]
