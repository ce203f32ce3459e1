"""Stacked vectors: R vectors in parameter space, as a dict by parameter or as the rows of one matrix."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from influence_core.errors import InvalidInput

Vectors = dict[str, Tensor]
"""Parameter name -> ``[R, *shape]``."""

Shapes = Mapping[str, tuple[int, ...]]
"""Parameter name -> shape, in the order in which the entries of a row run through the parameters."""


def flatten(vectors: Mapping[str, Tensor], shapes: Shapes) -> Tensor:
    """Stacked vectors as rows.

    Args:
        vectors: parameter name -> ``[R, *shape]``.
        shapes: the parameters, in the order wanted.

    Returns:
        ``[R, P]``.

    Raises:
        InvalidInput: If a parameter is missing, is not wanted, or has another shape.

    Example:
        >>> import torch
        >>> rows = flatten({"b": torch.ones(1, 1), "w": torch.zeros(1, 2)}, {"w": (2,), "b": (1,)})
        >>> rows
        tensor([[0., 0., 1.]])
        >>> unflatten(rows, {"w": (2,), "b": (1,)})["b"]
        tensor([[1.]])
    """
    if set(vectors) != set(shapes):
        raise InvalidInput(f"the vectors have entries for {sorted(vectors)}, expected {sorted(shapes)}")
    for name, shape in shapes.items():
        if tuple(vectors[name].shape[1:]) != tuple(shape):
            raise InvalidInput(
                f"the vectors' {name!r} has shape {tuple(vectors[name].shape)}, expected [R, *{tuple(shape)}]"
            )
    return torch.cat([vectors[name].reshape(len(vectors[name]), -1) for name in shapes], dim=1)


def unflatten(rows: Tensor, shapes: Shapes) -> Vectors:
    """Rows as stacked vectors: the inverse of ``flatten``.

    Args:
        rows: ``[R, P]``.
        shapes: the parameters, in the order of the rows.

    Returns:
        Parameter name -> ``[R, *shape]``; views.

    Raises:
        InvalidInput: If P is not the number of the parameters' entries.
    """
    sizes = [_size(shape) for shape in shapes.values()]
    if rows.dim() != 2 or rows.shape[1] != sum(sizes):
        raise InvalidInput(f"the rows have shape {tuple(rows.shape)}, expected [R, {sum(sizes)}]")
    parts = rows.split(sizes, dim=1)
    return {name: part.reshape(len(rows), *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def orthogonalised(vector: Tensor, basis: Tensor, dual: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What is left of a vector without its share of a space, taken off twice so that it is orthogonal to rounding.

    Once is not enough where little is left (Giraud et al. 2005).

    Args:
        vector: ``[P]``.
        basis: orthonormal rows, ``[K, P]``.
        dual: rows whose inner products with the basis are the identity, ``[K, P]``; by default the basis itself.

    Returns:
        The coefficients that were taken off, float64 ``[K]``, and what is left, ``[P]``.

    Example:
        >>> import torch
        >>> orthogonalised(torch.tensor([3.0, 4.0]), torch.tensor([[1.0, 0.0]]))
        (tensor([3.], dtype=torch.float64), tensor([0., 4.]))
    """
    measure = basis if dual is None else dual
    total = torch.zeros(len(basis), dtype=torch.float64, device=vector.device)
    for _ in range(2):
        overlap = measure @ vector
        vector = vector - overlap @ basis
        total += overlap
    return total, vector
