"""In which order a parameter's entries stand in a row of per-sample gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """A parameter's shape and the order in which its axes are flattened.

    The matrix products that form convolution gradients are fastest when they may leave the axes in another order than
    the parameter's own (say, channels last). Nothing is gained by permuting millions of entries back before an inner
    product, so rows stay in that order and carry this note.

    Attributes:
        shape: the parameter's shape.
        order: axes of ``shape`` in the order in which a row runs through them.

    Example:
        >>> import torch
        >>> layout = Layout((2, 3), (1, 0))
        >>> layout.flatten(torch.arange(6).reshape(1, 2, 3))
        tensor([[0, 3, 1, 4, 2, 5]])
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def plain(cls, shape: tuple[int, ...]) -> Layout:
        """The layout of an ordinary ``reshape(-1)``."""
        return cls(tuple(shape), tuple(range(len(shape))))

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def is_plain(self) -> bool:
        """Whether a row runs through the parameter in its own order."""
        return self.order == tuple(range(len(self.shape)))

    def flatten(self, stacked: Tensor) -> Tensor:
        """``[N, *shape] -> [N, P]`` in this order."""
        axes = (0, *(axis + 1 for axis in self.order))
        return stacked.permute(axes).reshape(stacked.shape[0], self.size)

    def unflatten(self, rows: Tensor) -> Tensor:
        """``[N, P] -> [N, *shape]``; a view where possible."""
        ordered = rows.reshape(rows.shape[0], *(self.shape[axis] for axis in self.order))
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return ordered.permute(0, *(axis + 1 for axis in back))

    def convert(self, rows: Tensor, to: Layout) -> Tensor:
        """Rows of this layout as rows of another one of the same parameter."""
        return rows if self == to else to.flatten(self.unflatten(rows))
