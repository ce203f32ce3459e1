"""An inverse curvature from a randomised low-rank approximation: what preconditions conjugate gradients best here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from influence_core.curvature.inverses.base import InverseCurvature, Solved, check_count
from influence_core.curvature.inverses.streamed import absolute_damping
from influence_core.curvature.operators import GaussNewton
from influence_core.curvature.solution import Product
from influence_core.curvature.vectors import Shapes, flatten, unflatten
from influence_core.gradients import Data
from influence_core.losses import Loss

RANK = 128
"""Random vectors by default; of larger models fewer, see ``SKETCH_MIB``."""

SKETCH_MIB = 256.0
"""Memory for the approximation; while it is made it takes about four times as much."""


@dataclass(frozen=True)
class NystromInverse(InverseCurvature):
    r"""The inverse of a randomised Nystroem approximation of the Gauss-Newton matrix G, constant outside its space.

    With r random vectors :math:`\Omega`, :math:`\hat G = (G\Omega)(\Omega^\top G\Omega)^{-1}(G\Omega)^\top =
    U \Lambda U^\top`, and for :math:`\mu = \lambda + \delta`

    .. math:: U (\Lambda + \mu)^{-1} U^\top + (\hat\lambda_r + \mu)^{-1} (I - U U^\top)

    (Frangella, Tropp and Udell 2023, arXiv:2110.02820, algorithm 2.1 and eq. 1.3, here not scaled). Where the
    eigenvalues fall fast, as those of a curvature do, it takes a solve near the few products that the rest needs. It
    depends on no right-hand side, so that none changes another's solution.

    Attributes:
        basis: U', ``[r, P]``, orthonormal rows.
        values: eigenvalues of the inverse in them, [r].
        rest: its eigenvalue outside of them.
        shapes: parameter name -> shape, in the order of a row.
        damping: :math:`\delta`, absolute.
        weight_decay: :math:`\lambda`.
    """

    name: ClassVar[str] = "nystrom"
    preconditions: ClassVar[bool] = True
    follows_damping: ClassVar[bool] = True
    has_root: ClassVar[bool] = True

    basis: Tensor
    values: Tensor
    rest: float
    shapes: Shapes
    damping: float
    weight_decay: float

    @classmethod
    def fit(
        cls,
        model: nn.Module,
        loss: Loss,
        data: Data,
        *,
        damping: float = 0.1,
        weight_decay: float = 0.0,
        rank: int = RANK,
        seed: int = 0,
    ) -> Self:
        """One product with ``rank`` random vectors.

        Args:
            model: in eval mode.
            loss: one loss per sample, convex in the outputs.
            data: N samples.
            damping: relative to the mean diagonal of the Gauss-Newton matrix; as a preconditioner that of the solve,
                unless it is given.
            weight_decay: lambda.
            rank: r, at most P and as many as fit 256 MiB.
            seed: of the random vectors.

        Returns:
            The inverse.
        """
        check_count("rank", rank)
        absolute = absolute_damping(damping, weight_decay, model, loss, data)
        matrix = GaussNewton(model, loss, data)
        first = matrix.parameters[0]
        fits = max(1, int(SKETCH_MIB * 2**20) // (matrix.size * first.element_size()))
        rank = min(rank, matrix.size, fits)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(matrix.size, rank, generator=generator, dtype=torch.float64).to(first)
        basis, values = _approximation(matrix.kept(), drawn)
        shift = absolute + weight_decay
        floor = torch.finfo(first.dtype).eps * float(values[0]) if len(values) else 0.0
        inverse = 1.0 / (values + shift).clamp_min(floor)
        rest = float(inverse[-1]) if rank < matrix.size else 0.0
        return cls(basis, inverse, rest, matrix.shapes, absolute, weight_decay)

    def apply(self, vectors: Mapping[str, Tensor]) -> Solved:
        """Into the space, divide, and back; the rest by one number."""
        rows = flatten(vectors, self.shapes)
        inside = rows @ self.basis.to(rows).T
        found = rows * self.rest + (inside * (self.values.to(rows) - self.rest)) @ self.basis.to(rows)
        return Solved(unflatten(found, self.shapes))

    def damped(self, damping: float) -> NystromInverse:
        """The same approximation with another damping, absolute."""
        more = damping - self.damping
        rest = 1.0 / (1.0 / self.rest + more) if self.rest > 0 else 0.0
        return replace(self, values=1.0 / (1.0 / self.values + more), rest=rest, damping=damping)

    def facts(self) -> dict[str, Any]:
        """Damping, weight decay and rank."""
        return {"damping": self.damping, "weight_decay": self.weight_decay, "rank": len(self.values)}

    def root(self) -> NystromInverse:
        """The symmetric root."""
        return replace(self, values=self.values.sqrt(), rest=self.rest**0.5)


def _approximation(product: Product, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """U' ``[r, P]`` and the eigenvalues [r] by algorithm 2.1, falling."""
    orthonormal = torch.linalg.qr(drawn).Q.T.contiguous()
    sketch = product(orthonormal)
    # a small multiple of the identity is added and taken off again, so that rounding leaves the matrix definite
    added = torch.finfo(sketch.dtype).eps * sketch.shape[1] ** 0.5 * float(torch.linalg.matrix_norm(sketch))
    if added == 0:
        return orthonormal, sketch.new_zeros(len(sketch))
    while True:
        moved = sketch + added * orthonormal
        inner = (orthonormal @ moved.T).double()
        factor, failed = torch.linalg.cholesky_ex((inner + inner.T) / 2)
        if not int(failed):
            break
        added *= 10
    root = torch.linalg.solve_triangular(factor.to(moved), moved, upper=False)
    _, singular, basis = torch.linalg.svd(root, full_matrices=False)
    return basis.contiguous(), (singular.square() - added).clamp_min(0)
