"""Products of gradients, or the cosines of the angles between them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from influence_core.estimators.base import Estimator

Similarity = Literal["product", "cosine"]


def cosines(products: Tensor, train_squares: Tensor, test_squares: Tensor) -> Tensor:
    """Inner products over the norms of both sides.

    Args:
        products: [N, M]; they are divided in place.
        train_squares: squared norms of the training side, [N].
        test_squares: squared norms of the test side, [M].

    Returns:
        The same tensor: cosines [N, M], 0 where a side is zero.

    Example:
        >>> import torch
        >>> cosines(torch.tensor([[2.0, 0.0]]), torch.tensor([4.0]), torch.tensor([1.0, 0.0]))
        tensor([[1., 0.]])
    """
    for squares in (train_squares[:, None], test_squares[None, :]):
        lengths = squares.clamp_min(0).sqrt()
        products.div_(torch.where(lengths > 0, lengths, 1.0)).masked_fill_(~(lengths > 0), 0.0)
    return products


def unit_rows(features: Tensor) -> Tensor:
    """Rows divided by their norms, [..., k]; a row of zeros stays one."""
    norms = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    return features / torch.where(norms > 0, norms, 1.0)


def refuse_cosine(estimator: Estimator, public: str) -> None:
    """Refuse what compares an image with itself, where that comparison is always the same.

    Args:
        estimator: with a field ``similarity``.
        public: name of the public method.

    Raises:
        NotSupported: if its similarity is the cosine.
    """
    if getattr(estimator, "similarity", "product") == "cosine":
        raise estimator.lacks(
            public, "the cosine of a gradient with itself is 1 for every image; similarity='product' has one"
        )
