"""Gram matrices of the outputs' gradients, from which the gradient norm of every label follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from influence_core.gradients.data import Data
from influence_core.gradients.forms import Form, Outer
from influence_core.gradients.layout import Layout
from influence_core.gradients.output_tape import Directions, by_parameter, output_batches, stacked_rows, together
from influence_core.gradients.selection import Choice, Selection
from influence_core.gradients.sweep import DEFAULT_MEMORY_MIB

Reduce = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(outputs [B, O], grams [B, m, m], ids [B]) -> [B, ...]``: what is kept of a batch."""


def output_grams(
    model: nn.Module,
    data: Data,
    weights: Mapping[str, Tensor] | None = None,
    *,
    reduce: Reduce | None = None,
    directions: Directions | None = None,
    parameters: Choice = None,
    batch_size: int | None = None,
    memory_mib: float = DEFAULT_MEMORY_MIB,
) -> Tensor:
    r"""Inner products of the gradients of a sample's outputs with each other.

    With :math:`J_c` the gradient of output c in the parameters and W a diagonal metric,

    .. math:: G_{cd} = J_c^\top W J_d .

    The gradient of any loss of the outputs is a combination of the :math:`J_c`, so that
    :math:`\lVert\nabla\ell\rVert_W^2 = r^\top G\, r` with :math:`r = \partial\ell/\partial f`: one matrix answers for
    every label at once. A sample costs one forward pass and O backward passes, its layers' inputs are unfolded once for
    all outputs, and a layer with a single position never forms a gradient:
    :math:`G_{cd} = \sum_i d_{ci}\, d_{di}\, (W a^2)_i` for inputs a and output gradients d.

    Args:
        model: in eval mode and only read, with outputs [B, O]; only read.
        data: a map-style dataset of ``(input tensor, label)``, or a pair of tensors; labels are not looked at.
        weights: parameter name -> W's entries, of its shape and not negative; None for the identity.
        reduce: what is kept; by default the matrices themselves, which for many samples and outputs is a lot.
        directions: combinations of outputs to take instead of each output; m of them for each sample.
        parameters: which parameters; see ``select``.
        batch_size: samples per batch; None to fit ``memory_mib``. It does not change the result.
        memory_mib: budget in MiB for activations and gradients of a batch.

    Returns:
        ``[N, m, m]``, or ``[N, ...]`` of whatever ``reduce`` keeps.

    Raises:
        GradientError: The outputs are no matrix [B, O], or per-sample gradients are impossible.
        ValueError: The data is empty, or a parameter has no weights or weights of another shape.

    Example:
        >>> model = nn.Linear(2, 3, bias=False)
        >>> output_grams(model, (torch.tensor([[1.0, 2.0]]), torch.zeros(1)))[0]
        tensor([[5., 0., 0.],
                [0., 5., 0.],
                [0., 0., 5.]])
    """
    selection, _, batches = output_batches(model, data, parameters, directions, batch_size, memory_mib)
    metric, kept = _Metric(selection, weights), []
    for batch in batches(metric.gathered):
        grams = batch.gathered
        for some, name, forms in batch.whole():
            grams[some] += metric.gram(name, forms)
        kept.append(grams if reduce is None else reduce(batch.outputs, grams, batch.ids))
    return torch.cat(kept)


class _Metric:
    """A diagonal metric with the selection's masks in it."""

    def __init__(self, selection: Selection, weights: Mapping[str, Tensor] | None) -> None:
        self._weights: dict[str, Tensor | None] = {}
        for name, parameter in selection.parameters.items():
            if weights is not None and (name not in weights or weights[name].shape != parameter.shape):
                found = tuple(weights[name].shape) if name in weights else "none"
                raise ValueError(f"the metric's weights of {name!r} are {found}, expected {tuple(parameter.shape)}")
            values = None if weights is None else weights[name].detach().to(parameter)
            if name in selection.masks:
                mask = selection.masks[name].to(parameter)
                values = mask if values is None else values * mask
            self._weights[name] = values

    def gathered(self, found: list[dict[str, Form]], rows: Tensor) -> Tensor:
        """The sum of the parameters' shares; a parameter without gradient along some direction has zeros there."""
        grams = rows.new_zeros(len(rows), rows.shape[1], rows.shape[1])
        for name, forms in by_parameter(found, rows):
            grams += self.gram(name, forms)
        return grams

    def gram(self, name: str, forms: Sequence[Form]) -> Tensor:
        """The parameter's share, ``[B, m, m]``, from its gradients along m directions."""
        weights = self._weights[name]
        joint = together(forms)
        if joint is not None and isinstance(joint.form, Outer) and joint.form.positions == 1:
            return joint.gram_of_single_positions(weights)
        roots: dict[Layout, Tensor] = {}
        parts = []
        for rows, layout in joint.rows() if joint is not None else stacked_rows(forms):
            if weights is not None:
                if layout not in roots:
                    roots[layout] = layout.flatten(weights[None])[0].sqrt()
                rows = rows * roots[layout] if joint is None else rows.mul_(roots[layout])
            parts.append(torch.bmm(rows, rows.transpose(1, 2)))
        return torch.cat(parts)
