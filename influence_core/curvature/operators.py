r"""Curvature matrices of the mean loss as products with R vectors at once, streamed over the data.

All of them are :math:`\frac1N \sum_n (\cdot) + (\lambda + \delta) I`: means over samples, never over batches, so that
the batch size changes nothing. :math:`\lambda` is the weight decay of a penalty :math:`\frac\lambda2\lVert w\rVert^2`
(PyTorch's convention), :math:`\delta` the damping; the two are kept apart. Everything is taken in eval mode.
"""

from __future__ import annotations

import contextlib
import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from influence_core.batches import batch_size_for
from influence_core.curvature.kept import KEPT_MIB, KeptJacobians, KeptMatrix, Way, keep_jacobians, keep_matrix, way
from influence_core.curvature.outputs import Draw, at_outputs, linear_loss, output_product
from influence_core.curvature.shared import lasting, once
from influence_core.curvature.vectors import Vectors, flatten, unflatten
from influence_core.errors import InvalidInput
from influence_core.gradients import (
    Choice,
    Data,
    GradientError,
    Samples,
    check_model,
    no_autocast,
    plain_attention,
    planned,
    select,
    squared_norms,
)
from influence_core.inputs import Inputs, concatenated
from influence_core.losses import Loss, as_rows
from influence_core.models.private import private
from influence_core.progress import tick

MEMORY_MIB = 256.0
EXACT_OUTPUTS = 16
"""Up to so many outputs the mean diagonal is exact."""

GRAPH_FACTOR = 4.0
"""A graph for second derivatives keeps about this many times what one for first derivatives keeps."""


class Operator(ABC):
    """A symmetric curvature matrix, P x P, known by its products.

    The model is only read: every product runs on a private copy of its own, so that any number of threads may take
    products with one operator, and a buffer that a forward pass moves does not make the next product another one.

    Attributes:
        model: in eval mode; it is only read.
        shapes: parameter name -> shape, in the order of a row.
        size: P.
        weight_decay: lambda.
        damping: delta.

    Args:
        model: in eval mode.
        loss: one loss per sample.
        data: N samples: a map-style dataset, a pair of tensors, or anything with ``batch(ids)`` and a length.
        parameters: which parameters; see ``influence_core.gradients.select``. Masks are not possible here.
        weight_decay: lambda of the penalty lambda/2 ||w||^2.
        damping: delta, absolute.
        batch_size: samples per batch; None to fit 256 MiB.

    Raises:
        InvalidInput: If the model cannot be differentiated sample by sample, or a mask is given.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Data,
        *,
        parameters: Choice = None,
        weight_decay: float = 0.0,
        damping: float = 0.0,
        batch_size: int | None = None,
    ) -> None:
        check_model(model)
        selection = select(model, parameters)
        if selection.masks:
            raise InvalidInput(
                f"curvature products take whole parameters, but {next(iter(selection.masks))!r} has a mask: multiply "
                "the vectors by it before and after"
            )
        self.model, self.loss, self.data = model, loss, data
        self.parameters = list(selection.parameters.values())
        self.shapes = {name: tuple(p.shape) for name, p in selection.parameters.items()}
        self.size = selection.size
        self.weight_decay, self.damping = weight_decay, damping
        first = self.parameters[0]
        self._samples = Samples(data, None, first.device, first.dtype)
        if batch_size is None:
            with plain_attention():
                mine = private(model)
                plan, _ = planned(mine, select(mine, selection), loss, self._samples)
            batch_size = batch_size_for(MEMORY_MIB, GRAPH_FACTOR * plan.bytes_per_sample, len(self._samples), most=256)
        self._batch_size = batch_size

    def __call__(self, rows: Tensor) -> Tensor:
        """The matrix times R vectors.

        Args:
            rows: ``[R, P]``.

        Returns:
            ``[R, P]``.
        """
        total = self._sum(rows)
        return total.div_(len(self._samples)).add_(rows, alpha=self.weight_decay + self.damping)

    def kept(self, memory_mib: float = KEPT_MIB) -> Operator:
        """The same matrix for many products: with what these need in memory, where it can be had and fits.

        Args:
            memory_mib: what may be kept.

        Returns:
            A matrix with the same products, to rounding; here the matrix itself, which streams.
        """
        return self

    def _sum(self, rows: Tensor) -> Tensor:
        """The sum over samples, without what is added to the mean."""
        mine = self._private()
        vectors = self._by_vector(rows)
        total = torch.zeros_like(rows)
        with _second_order():
            for ids, inputs, labels in self._batches():
                for r, parts in enumerate(mine._products(ids, inputs, labels, vectors)):
                    total[r] += _joined(parts, self.parameters).to(total)
        return total

    def apply(self, vectors: Vectors) -> Vectors:
        """The matrix times stacked vectors, parameter name -> ``[R, *shape]``."""
        return unflatten(self(flatten(vectors, self.shapes)), self.shapes)

    def damped(self, damping: float) -> Self:
        """The same matrix with another damping; nothing is computed."""
        other = copy.copy(self)
        other.damping = damping
        return other

    def dense(self) -> Tensor:
        """The matrix itself, ``[P, P]``: for small models and for tests."""
        first = self.parameters[0]
        return self(torch.eye(self.size, device=first.device, dtype=first.dtype))

    def _private(self) -> Self:
        """The same matrix on a model that nobody else uses."""
        mine = copy.copy(self)
        mine.model = private(self.model)
        own = dict(mine.model.named_parameters())
        mine.parameters = [own[name] for name in self.shapes]
        return mine

    def _by_vector(self, rows: Tensor) -> list[list[Tensor]]:
        """Each vector by parameter."""
        stacked = unflatten(rows.detach().to(self.parameters[0]), self.shapes)
        return [[v[r] for v in stacked.values()] for r in range(len(rows))]

    def _batches(self) -> Iterator[tuple[Tensor, Any, Any]]:
        for ids in torch.arange(len(self._samples)).split(self._batch_size):
            tick()
            yield ids, *self._samples.batch(ids)

    @abstractmethod
    def _products(
        self, ids: Tensor, inputs: Inputs, labels: Any, vectors: Sequence[Sequence[Tensor]]
    ) -> Iterator[Sequence[Tensor | None]]:
        """For every vector, the sum over the batch of the sample's matrix times it, parameter by parameter."""


class Hessian(Operator):
    r"""The Hessian :math:`\frac1N\sum_n\nabla^2\ell_n + (\lambda+\delta)I`: exact, and indefinite in general."""

    def _products(
        self, ids: Tensor, inputs: Inputs, labels: Any, vectors: Sequence[Sequence[Tensor]]
    ) -> Iterator[Sequence[Tensor | None]]:
        total = self.loss(self.model(inputs), labels).sum()
        gradients = torch.autograd.grad(total, self.parameters, create_graph=True, allow_unused=True)
        for vector in vectors:
            yield _differentiated(gradients, self.parameters, vector)


class GaussNewton(Operator):
    r"""The generalized Gauss-Newton matrix :math:`\frac1N\sum_n J_n^\top C_n J_n + (\lambda+\delta)I`.

    :math:`C_n` is the loss Hessian at the outputs. Positive semi-definite for a convex loss, equal to the Hessian where
    the outputs are linear in the parameters, and to the Fisher matrix for cross-entropy.
    """

    _kept: KeptJacobians | KeptMatrix | None = None
    _by_parts: ClassVar[bool] = True
    """Whether model, loss and data say all about the matrix."""

    def kept(self, memory_mib: float = KEPT_MIB) -> GaussNewton:
        """The same with the Jacobians ``[N, K, P]`` in memory, or the matrix itself; see ``curvature.kept``.

        It costs a sweep over the data for each output, which a handful of products pay for: a product is then two small
        matrix products, and several vectors at once cost little more than one. A fit that needs it several times makes
        it once.

        Args:
            memory_mib: what may be kept; where neither fits, every product streams as before.

        Returns:
            The same matrix; the rows that it takes are of the type of the parameters.
        """
        if self._kept is not None:
            return self
        chosen = way(
            len(self._samples), self._outputs(), self.size, self.parameters[0].element_size(), memory_mib=memory_mib
        )
        if chosen == "stream":
            return self
        what = ("kept", chosen, tuple(self.shapes))
        parts = (self.model, self.loss, self.data) if self._by_parts else (self,)
        found = once(what, parts, lambda: self._keep(chosen))
        if found is None:
            return self
        other = copy.copy(self)
        other._kept = found
        return other

    def _keep(self, chosen: Way) -> KeptJacobians | KeptMatrix | None:
        """What products need, or ``None`` where it cannot be had."""
        choice = list(self.shapes)
        seen = self._seen()
        if seen is None:
            return None  # samples differ in the number of their outputs
        outputs, labels = seen
        rows = as_rows(outputs)
        every = torch.arange(len(rows))
        units = torch.eye(rows.shape[1]).to(rows)
        columns = [self._curved(every, outputs, labels, unit.expand_as(rows)) for unit in units]
        curvature = torch.stack(columns, dim=2)
        try:
            if chosen == "jacobians":
                return keep_jacobians(self.model, self.data, choice, curvature)
            return keep_matrix(self.model, self.data, choice, curvature, self.size)
        except GradientError:
            return None  # what has no per-sample gradients can still be differentiated batch by batch

    def _outputs(self) -> int:
        """Numbers that the model gives for a sample, by a pass over one."""
        inputs, _ = self._samples.batch(torch.tensor([0]))
        with plain_attention(), no_autocast(), torch.no_grad():
            return as_rows(private(self.model)(inputs)).shape[1]

    def trace(self) -> float:
        """The sum of the diagonal of the mean over samples, where ``kept`` has what it needs; else NaN."""
        return math.nan if self._kept is None else self._kept.trace() / len(self._samples)

    def _sum(self, rows: Tensor) -> Tensor:
        if self._kept is None:
            return super()._sum(rows)
        return self._kept(rows.detach().to(self.parameters[0])).to(rows)

    def _seen(self) -> tuple[Tensor, Inputs] | None:
        """Outputs and labels of all samples, where they have one shape."""
        mine, outputs, labels = self._private(), [], []
        with plain_attention(), no_autocast(), torch.no_grad():
            for _, inputs, given in self._batches():
                outputs.append(mine.model(inputs))
                labels.append(given)
        try:
            return torch.cat(outputs), concatenated(labels)
        except RuntimeError:
            return None

    def output_changes(self, rows: Tensor) -> Tensor:
        """To first order, how the outputs change along R vectors: :math:`J_n` times each of them.

        Args:
            rows: ``[R, P]``.

        Returns:
            ``[R, N, K]``; of outputs with more axes, K numbers one after the other.
        """
        mine = self._private()
        vectors = self._by_vector(rows)
        parts = []
        with _second_order():
            for _, inputs, _ in self._batches():
                _, rows, changes = mine._along(inputs, vectors)
                parts.append(torch.stack([rows.new_zeros(rows.shape) if c is None else c for c in changes]))
        return torch.cat(parts, dim=1)

    def _along(
        self, inputs: Inputs, vectors: Sequence[Sequence[Tensor]]
    ) -> tuple[Tensor, Tensor, Iterator[Tensor | None]]:
        """A batch's outputs, the same as rows, and for every vector J times it; None where nothing depends on it."""
        outputs = self.model(inputs)
        rows = as_rows(outputs)
        dummy = torch.zeros_like(rows, requires_grad=True)  # J' w, differentiated in w, is J' and so gives J v
        transposed = torch.autograd.grad(rows, self.parameters, dummy, create_graph=True, allow_unused=True)
        return outputs, rows, (_differentiated(transposed, [dummy], vector)[0] for vector in vectors)

    def _products(
        self, ids: Tensor, inputs: Inputs, labels: Any, vectors: Sequence[Sequence[Tensor]]
    ) -> Iterator[Sequence[Tensor | None]]:
        outputs, rows, changes = self._along(inputs, vectors)
        for change in changes:
            if change is None:
                yield [None] * len(self.parameters)
                continue
            curved = self._curved(ids, outputs.detach(), labels, change)
            yield torch.autograd.grad(rows, self.parameters, curved, retain_graph=True, allow_unused=True)

    def _curved(self, ids: Tensor, outputs: Tensor, labels: Any, change: Tensor) -> Tensor:
        """C times a change of the outputs, ``[B, K]``."""
        return output_product(self.loss, outputs, labels, change)


class Fisher(GaussNewton):
    r"""A Fisher matrix :math:`\frac1N\sum_n g_n g_n^\top + (\lambda+\delta)I`.

    Args:
        *args: of ``Operator``.
        draw: ``empirical`` for gradients with the given labels; ``sampled`` for labels drawn once from the model,
            an unbiased estimate of the true Fisher matrix; ``exact`` for its expectation.
        seed: of the draw.
        **options: of ``Operator``.
    """

    _by_parts: ClassVar[bool] = False

    def __init__(self, *args: Any, draw: Draw = "sampled", seed: int = 0, **options: Any) -> None:
        super().__init__(*args, **options)
        self._vectors = at_outputs(self.model, self.loss, self.data, draw, seed)

    def _curved(self, ids: Tensor, outputs: Tensor, labels: Any, change: Tensor) -> Tensor:
        drawn = [vectors[ids.to(vectors.device)] for vectors in self._vectors]
        return torch.stack([s * (s * change).sum(1, keepdim=True) for s in drawn]).sum(0)


def mean_diagonal(model: nn.Module, loss: Loss, data: Data, parameters: Choice = None, seed: int = 0) -> float:
    r"""Mean of the diagonal of the Gauss-Newton matrix, what relative damping is relative to.

    For up to 16 outputs it is exact, by a sweep for each; for more, one sweep estimates it without bias from one draw
    per sample, :math:`\frac{1}{NP}\sum_n\lVert J_n^\top s_n\rVert^2`.

    Args:
        model: in eval mode; it is only read.
        loss: one loss per sample.
        data: N samples.
        parameters: which parameters.
        seed: of the draw.

    Returns:
        The mean, without weight decay and damping.

    Raises:
        InvalidInput: If it is zero, so that nothing can be relative to it.
    """
    first = next(model.parameters())
    samples = Samples(data, None, first.device, first.dtype)
    with plain_attention(), torch.no_grad():
        few = as_rows(private(model)(samples.batch(torch.tensor([0]))[0])).shape[1] <= EXACT_OUTPUTS
    total = math.nan
    if few and lasting():  # then the Jacobians will be needed again
        total = GaussNewton(model, loss, data, parameters=parameters).kept().trace()
    if math.isnan(total):
        total = sum(
            float(
                squared_norms(model, linear_loss, data, labels=drawn, parameters=parameters).mean(dtype=torch.float64)
            )
            for drawn in at_outputs(model, loss, data, "exact" if few else "sampled", seed)
        )
    mean = total / select(model, parameters).size
    if not mean > 0:
        raise InvalidInput(
            "the curvature is zero on all training images, so damping cannot be relative to it: the model is certain "
            "of every image, or its outputs do not depend on the chosen parameters"
        )
    return mean


CurvatureName = Literal["ggn", "hessian"]


def operator(kind: CurvatureName, *args: Any, **options: Any) -> Operator:
    """A curvature matrix by its name.

    Args:
        kind: ``ggn`` or ``hessian``.
        *args: of ``Operator``.
        **options: of ``Operator``.

    Returns:
        The operator.

    Raises:
        InvalidInput: If the name is unknown.
    """
    kinds: dict[str, type[Operator]] = {"ggn": GaussNewton, "hessian": Hessian}
    if kind not in kinds:
        raise InvalidInput(f"curvature is {kind!r}; choose 'ggn' or 'hessian'")
    return kinds[kind](*args, **options)


def _differentiated(
    outputs: Sequence[Tensor | None], inputs: Sequence[Tensor], vector: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    """Derivative of ``outputs . vector``; None where there is none."""
    pairs = [(o, v) for o, v in zip(outputs, vector, strict=True) if o is not None and o.requires_grad]
    if not pairs:
        return [None] * len(inputs)
    return torch.autograd.grad(
        [o for o, _ in pairs], inputs, [v for _, v in pairs], retain_graph=True, allow_unused=True
    )


def _joined(parts: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    filled = [p.new_zeros(p.shape) if g is None else g.detach() for g, p in zip(parts, parameters, strict=True)]
    return torch.cat([part.flatten() for part in filled])


@contextlib.contextmanager
def _second_order() -> Iterator[None]:
    """Gradients are on, and nothing is used that has no second derivative."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(plain_attention())
        stack.enter_context(no_autocast())
        yield
