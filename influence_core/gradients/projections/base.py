"""What random projections have in common: a seed, and one random block per parameter's name."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from influence_core.gradients.block import SampleGradients
from influence_core.gradients.forms import Dense


class Projection(ABC):
    """A random linear map R from parameter space to ``dim`` numbers with ``E[R'R] = I``.

    The map is a sum over parameters, each with a random block of its own that the seed and the parameter's name and
    shape determine: it is the same for any checkpoint of a model, any batch size, device and number type.

    Attributes:
        dim: k, the number of features.
        seed: determines the map.
    """

    def __init__(self, dim: int, seed: int = 0) -> None:
        """Take k and the seed.

        Raises:
            ValueError: k is not positive.
        """
        if dim < 1:
            raise ValueError(f"a projection needs at least one dimension, got dim={dim}")
        self.dim, self.seed = dim, seed

    @abstractmethod
    def add(self, gradients: SampleGradients, features: Tensor) -> None:
        """Add one parameter's features ``[B, k]`` to ``features``."""

    def vectors(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Project given vectors.

        Args:
            vectors: parameter name -> ``[M, *shape]``.

        Returns:
            Features ``[M, k]``.
        """
        first = next(iter(vectors.values()))
        features = first.new_zeros(len(first), self.dim)
        for name, vector in vectors.items():
            self.add(SampleGradients(name, Dense(vector.detach()), None, vector.element_size()), features)
        return features

    def _generator(self, name: str, purpose: str = "") -> torch.Generator:
        """A generator for one parameter, on the CPU, so that every device sees the same numbers."""
        digest = hashlib.sha256(f"{self.seed}/{type(self).__name__}/{name}/{purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def _signs(self, count: int, name: str, purpose: str = "") -> Tensor:
        """Random signs, ``[count]``, int8."""
        return torch.randint(2, (count,), generator=self._generator(name, purpose), dtype=torch.int8).mul_(2).sub_(1)
