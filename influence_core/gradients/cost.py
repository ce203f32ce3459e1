"""The cost model: ghost products or explicit gradients."""

from __future__ import annotations

from influence_core.gradients.forms import Costs

MEMORY_PREFERENCE = 1.3
"""Ghost products may cost this much more: they keep activations instead of M gradients, and form none of N."""


def prefers_ghost(costs: Costs, queries: int) -> bool:
    """Whether inner products with M queries are taken without forming the samples' gradients.

    Per training sample, explicit gradients cost forming one and M products of their size; ghost products cost M times
    a pair of position sums. Samples outnumber queries, so the cost of the queries' own gradients does not count.

    Args:
        costs: of one parameter's form.
        queries: M.

    Returns:
        Whether ghost products are the better choice.

    Example:
        >>> late = Costs(explicit=16 * 4608 * 512, size=4608 * 512, pair=16**2 * 1100, kept=16 * 1024)
        >>> prefers_ghost(late, queries=20)
        True
    """
    if costs.pair is None:
        return False
    explicit = costs.explicit + queries * costs.size
    ghost = queries * costs.pair
    return ghost <= MEMORY_PREFERENCE * explicit and costs.kept <= costs.size
