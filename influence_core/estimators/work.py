"""What a piece of work consists of, counted before it starts: passes of single samples, steps, sweeps and algebra.

An estimator says so in ``_fit_work`` and ``_call_work``; ``ic.estimators.expected_cost`` turns it into seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from influence_core.curvature.kept import KEPT_MIB, way
from influence_core.curvature.kronecker import find_layers
from influence_core.curvature.operators import EXACT_OUTPUTS
from influence_core.gradients import select
from influence_core.study import Study
from influence_core.training import Recipe, Sharpness

VECTOR_SHARE = 1.3
"""Of a plain pass: what a product with a curvature takes for every vector, beside one pass for its graph."""

PRODUCT_BATCH = 256
"""Samples of a batch of such a product."""

NUMBER = 4
"""Bytes of a number, of most models."""

EIGEN_FACTOR = 20
"""Multiply-adds of an eigendecomposition of an n x n matrix in float64, over n^3, at the speed of a matrix product."""


READ, SLOW = 24.0, 1.6
"""What a product with kept Jacobians takes for each entry, in multiply-adds of a product of square matrices: to read it
from memory, and for each vector. By timing products with 1, 4, 16 and 32 vectors: 22, 46, 50 and 75 times one."""


@dataclass(frozen=True)
class Work:
    """Counts; ``a + b`` is both, ``3 * a`` is three times as much.

    Attributes:
        forward: single-sample passes that keep outputs only.
        backward: forward and backward passes whose per-sample gradients are used.
        plain: forward and backward passes without these: of a training, or of a product with a curvature.
        sweeps: passes over a dataset with per-sample gradients, each of which is planned and tried first.
        steps: batches of plain passes.
        algebra: multiply-adds of matrices beside the passes.
        held: bytes that are held at a time beside what one batch takes, as far as they count.
    """

    forward: float = 0.0
    backward: float = 0.0
    plain: float = 0.0
    sweeps: float = 0.0
    steps: float = 0.0
    algebra: float = 0.0
    held: float = 0.0

    def __add__(self, other: Work) -> Work:
        """Both, one after the other."""
        counts = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Work)}
        return Work(**(counts | {"held": max(self.held, other.held)}))

    def __rmul__(self, times: float) -> Work:
        """So many times as much, one after the other."""
        return Work(**{f.name: (1 if f.name == "held" else times) * getattr(self, f.name) for f in fields(Work)})

    def words(self) -> str:
        """The passes as a person reads them, such as "1,000 forward, 12,000 backward"."""
        counts = {"forward": self.forward, "backward": self.backward + self.plain}
        return ", ".join(f"{round(n):,} {kind}" for kind, n in counts.items() if n) or "no passes"


def swept(samples: float, queries: float = 0, size: float = 0) -> Work:
    """One sweep over samples with per-sample gradients, and their products with queries of the model's size.

    Ghost products may take less algebra than that; forming the gradients is in a backward pass.

    Args:
        samples: N.
        queries: M.
        size: P.

    Returns:
        The work.
    """
    held = NUMBER * (queries * size + samples * queries)
    return Work(backward=samples, sweeps=1, algebra=samples * queries * size, held=held)


def multiplied(
    study: Study,
    count: float,
    vectors: int = 1,
    samples: int | None = None,
    kept: bool = True,
    memory: float = KEPT_MIB,
    again: bool = False,
) -> Work:
    """Products of a curvature with vectors.

    Args:
        study: whose training set it is.
        count: number of products one after the other.
        vectors: R, in each of them.
        samples: of the training set, all by default.
        kept: whether it is a Gauss-Newton matrix for many products.
        memory: what may be kept of it, in MiB.
        again: whether what is kept is there already.

    Returns:
        The work. Streamed over samples, one graph for each batch and ``VECTOR_SHARE`` of a pass for each vector; with
        what is kept, K backward passes of each sample once, and two multiplications for each entry of the Jacobians,
        which count as many as ``READ`` and ``SLOW`` say.
    """
    size, outputs = parameters_of(study), study.num_outputs
    samples = len(study.train) if samples is None else samples
    item = next(study.model.parameters()).element_size()
    chosen = way(samples, outputs, size, item, memory) if kept else "stream"
    directions = 4.0 * vectors * size * item  # a solver's iterate, residual, direction and product
    if chosen == "stream":
        batches = math.ceil(samples / PRODUCT_BATCH)
        streamed = Work(plain=samples * (1 + VECTOR_SHARE * vectors), steps=batches * (1 + vectors), held=directions)
        return count * streamed
    entries = samples * outputs * (size + outputs)
    first = Work() if again else Work(forward=samples, backward=outputs * samples, sweeps=1)
    if chosen == "matrix":
        algebra = (0.0 if again else float(entries) * size) + float(count) * vectors * size**2
        return first + Work(algebra=algebra, held=min(memory * 2**20, entries * item) + size**2 * item)
    read = 2.0 * count * entries * (READ + SLOW * vectors)
    return first + Work(algebra=read, held=entries * item + directions)


def trained(samples: int, epochs: float, batch_size: int, passes: int = 1) -> Work:
    """Training for some epochs.

    Args:
        samples: in the set that is trained on.
        epochs: passes over it.
        batch_size: samples a step.
        passes: forward and backward passes of a step: 2 with an ascent.

    Returns:
        The work.
    """
    steps = epochs * math.ceil(samples / batch_size)
    return passes * Work(plain=epochs * samples, steps=steps)


def passes_of(how: Recipe | Sharpness) -> int:
    """Forward and backward passes of a step of training: 2 where it climbs first, else 1."""
    name, radius = (how.optimizer, how.rho) if isinstance(how, Recipe) else (how.solver, how.radius)
    return 2 if name in ("sam", "asam", "fsam") and radius > 0 else 1


def parameters_of(study: Study) -> int:
    """P, the number of trained weights."""
    return sum(p.numel() for p in study.model.parameters() if p.requires_grad)


def keeps(study: Study) -> bool:
    """Whether a fit that solves keeps the Jacobians, or the matrix, from its mean diagonal on."""
    size, outputs = parameters_of(study), study.num_outputs
    chosen = way(len(study.train), outputs, size, next(study.model.parameters()).element_size())
    return chosen != "stream" and outputs <= EXACT_OUTPUTS


def diagonal_measured(study: Study, solving: bool = False) -> Work:
    """The mean diagonal of the curvature, which damping is relative to: a sweep for each of up to 16 outputs.

    Args:
        study: whose training set it is.
        solving: whether what is kept for products gives it, where that is kept.

    Returns:
        The work, that of keeping among it.
    """
    if solving and keeps(study):
        entries = float(len(study.train)) * study.num_outputs * parameters_of(study)
        return multiplied(study, 0) + Work(algebra=entries * study.num_outputs)
    sweeps = study.num_outputs if study.num_outputs <= EXACT_OUTPUTS else 1
    return Work(forward=len(study.train)) + sweeps * swept(len(study.train))


def rotation(study: Study) -> float:
    """Multiply-adds that take one gradient into the eigenbasis of Kronecker factors, or back."""
    layers = find_layers(study.model, select(study.model))
    return float(sum(n.groups * n.height * n.width * (n.height + n.width) for n in layers))


def kronecker_bytes(study: Study) -> float:
    """Bytes of Kronecker factors' eigenvectors, and of the eigenvalues."""
    layers = find_layers(study.model, select(study.model))
    squares = sum(n.groups * (n.height**2 + n.width**2) for n in layers)
    return float(NUMBER * (squares + parameters_of(study)))


def kronecker_work(study: Study, draws: int = 1) -> Work:
    """Fitting K-FAC and the eigenvalues in its basis: labels, two sweeps, eigendecompositions and rotations.

    Args:
        study: whose training set it is.
        draws: labels of each image.

    Returns:
        The work.
    """
    train = len(study.train)
    layers = find_layers(study.model, select(study.model))
    cubes = sum(n.groups * (n.height**3 + n.width**3) for n in layers)
    algebra = EIGEN_FACTOR * cubes + draws * train * rotation(study)
    return Work(forward=train, algebra=float(algebra), held=4 * kronecker_bytes(study)) + 2 * draws * swept(train)
