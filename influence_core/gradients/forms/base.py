"""What a per-sample gradient of one parameter can be asked for, however it is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from influence_core.gradients.layout import Layout


@dataclass(frozen=True)
class Costs:
    """Multiply-adds and numbers kept, per sample, of the two ways to take inner products.

    Attributes:
        explicit: multiply-adds to form one sample's gradient.
        size: entries of that gradient; also the multiply-adds of one inner product with it.
        pair: multiply-adds of one ghost inner product, or None where the form has none.
        kept: numbers that one sample takes while it is kept as a form.
    """

    explicit: float
    size: float
    pair: float | None
    kept: float


class Form(ABC):
    """The gradients of one parameter for a batch of samples, in the form in which they were recorded.

    Attributes:
        batch: number of samples B.
        layout: shape of the parameter, and the order of the rows.
    """

    batch: int
    layout: Layout

    @abstractmethod
    def rows(self) -> Tensor:
        """The explicit gradients, ``[B, P]``, in the order of ``layout``."""

    @abstractmethod
    def costs(self) -> Costs:
        """What the ways to use this form cost."""

    @abstractmethod
    def narrow(self, start: int, stop: int) -> Self:
        """The same for the samples ``start`` to ``stop - 1``."""

    @classmethod
    @abstractmethod
    def stack(cls, forms: Sequence[Self]) -> Self:
        """The forms of several batches as the form of one."""

    def matches(self, other: Form) -> bool:
        """Whether ``stack`` and ``gram`` take the two together; samples of other lengths may not."""
        return type(self) is type(other)

    def gram(self, other: Self) -> Tensor:
        """Ghost inner products with the gradients of another batch, ``[B, B']``, without forming either.

        Raises:
            NotImplementedError: ``costs().pair`` is None, so there is no such way.
        """
        raise NotImplementedError(f"{type(self).__name__} has no ghost inner products; use rows() of both sides")

    def squared_norms(self) -> Tensor | None:
        """Squared norms ``[B]`` where a way cheaper than through ``rows`` exists, else None."""
        return None

    def total(self) -> Tensor | None:
        """The sum over the batch, of the parameter's shape, where a way cheaper than through ``rows`` exists."""
        return None

    def total_of_squares(self) -> Tensor | None:
        """The sum over the batch of squared entries, likewise."""
        return None

    def weighted_squared_norms(self, weights: Tensor) -> Tensor | None:
        """``sum_i w_i g_i^2``, ``[B]``, for weights of the parameter's shape, likewise."""
        return None

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """The gradient as a sum of outer products.

        Returns:
            ``(output gradients [B, T, C], inputs [B, T, K])``; their product summed over T is the gradient as a C x K
            matrix, entries in the parameter's own order. None where the gradient is no such sum.
        """
        return None

    def fast_factors(self) -> tuple[Tensor, Tensor, Layout] | None:
        """The same with the inputs' entries in the order that is cheapest to make, and the matrix's order therefore."""
        factors = self.factors()
        return None if factors is None else (*factors, Layout.plain(self.layout.shape))

    def projected_factors(self, outputs: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor] | None:
        """The factors times matrices ``[k1, C]`` and ``[k2, K]``: ``([B, T, k1], [B, T, k2])``."""
        factors = self.factors()
        return None if factors is None else (factors[0] @ outputs.T, factors[1] @ inputs.T)


class Sum(Form):
    """A parameter used several times, where the uses do not merge: the sum of the uses' gradients."""

    def __init__(self, parts: Sequence[Form]) -> None:
        """Take the forms of the uses, all of the same batch."""
        self.parts = tuple(parts)
        self.batch = parts[0].batch
        self.layout = Layout.plain(parts[0].layout.shape)

    def rows(self) -> Tensor:
        """The sum of the parts' rows."""
        first, *rest = self.parts
        total = first.layout.convert(first.rows(), self.layout)
        for part in rest:
            total = total + part.layout.convert(part.rows(), self.layout)
        return total

    def costs(self) -> Costs:
        """Explicit only: products of unlike uses have no common ghost form."""
        costs = [part.costs() for part in self.parts]
        return Costs(sum(c.explicit for c in costs), self.layout.size, None, sum(c.kept for c in costs))

    def matches(self, other: Form) -> bool:
        """Whether all uses do."""
        return (
            isinstance(other, Sum)
            and len(self.parts) == len(other.parts)
            and all(mine.matches(its) for mine, its in zip(self.parts, other.parts, strict=True))
        )

    def narrow(self, start: int, stop: int) -> Sum:
        """Narrow every part."""
        return Sum([part.narrow(start, stop) for part in self.parts])

    @classmethod
    def stack(cls, forms: Sequence[Self]) -> Self:
        """Stack use by use."""
        return cls([type(uses[0]).stack(uses) for uses in zip(*(form.parts for form in forms), strict=True)])
