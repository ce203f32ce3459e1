"""Forms: how the per-sample gradient of one parameter is kept, and what can be computed without forming it."""

from __future__ import annotations

from collections.abc import Sequence

from influence_core.gradients.forms.base import Costs, Form, Sum
from influence_core.gradients.forms.convolution import Convolution, Geometry
from influence_core.gradients.forms.dense import Dense
from influence_core.gradients.forms.lookup import Lookup
from influence_core.gradients.forms.outer import Outer

__all__ = ["Convolution", "Costs", "Dense", "Form", "Geometry", "Lookup", "Outer", "Sum", "merge"]


def merge(uses: Sequence[Form]) -> Form:
    """One form for all uses of a parameter in one forward pass; cross terms between uses are in it."""
    if len(uses) == 1:
        return uses[0]
    outer = [use for use in uses if isinstance(use, Outer)]
    if len(outer) == len(uses):
        return Outer.merge(outer)
    lookup = [use for use in uses if isinstance(use, Lookup)]
    if len(lookup) == len(uses):
        return Lookup.merge(lookup)
    return Sum(uses)
