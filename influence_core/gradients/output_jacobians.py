"""Jacobians of the outputs in the parameters, of every sample."""

from __future__ import annotations

from torch import Tensor, nn

from influence_core.gradients.data import Data
from influence_core.gradients.forms import Form
from influence_core.gradients.layout import Layout
from influence_core.gradients.output_tape import by_parameter, output_batches, stacked_rows, together
from influence_core.gradients.selection import Choice
from influence_core.gradients.sweep import DEFAULT_MEMORY_MIB


def output_jacobians(
    model: nn.Module,
    data: Data,
    *,
    parameters: Choice = None,
    batch_size: int | None = None,
    memory_mib: float = DEFAULT_MEMORY_MIB,
) -> Tensor:
    """The gradient of every output of every sample.

    A sample costs one forward pass and O backward passes, and its layers' inputs are unfolded once for all outputs.

    Args:
        model: in eval mode and only read, with outputs [B, O].
        data: a map-style dataset of ``(input tensor, label)``, or a pair of tensors; labels are not looked at.
        parameters: which parameters, P entries in all; see ``select``. Entries that a mask leaves out are 0.
        batch_size: samples per batch; None to fit ``memory_mib``. It does not change the result.
        memory_mib: budget in MiB for activations and gradients of a batch, the result aside.

    Returns:
        ``[N, O, P]``, the parameters one after the other in the model's order.

    Raises:
        GradientError: The outputs are no matrix [B, O], or per-sample gradients are impossible.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 2)
        >>> output_jacobians(model, (torch.tensor([[3.0, 4.0]]), torch.zeros(1)))[0]
        tensor([[3., 4., 0., 0., 1., 0.],
                [0., 0., 3., 4., 0., 1.]])
    """
    selection, samples, batches = output_batches(model, data, parameters, None, batch_size, memory_mib)
    places, size = {}, 0
    for name, parameter in selection.parameters.items():
        places[name] = slice(size, size + parameter.numel())
        size += parameter.numel()

    def put(rows: Tensor, name: str, forms: list[Form]) -> None:
        joint, begin = together(forms), 0
        for found, layout in joint.rows() if joint is not None else stacked_rows(forms):
            flat = layout.convert(found.flatten(0, 1), Layout.plain(layout.shape))
            rows[begin : begin + len(found), :, places[name]] = flat.unflatten(0, found.shape[:2])
            begin += len(found)
        if name in selection.masks:
            rows[:, :, places[name]] *= selection.masks[name].flatten()

    def gathered(found: list[dict[str, Form]], directions: Tensor) -> Tensor:
        rows = directions.new_zeros(len(directions), directions.shape[1], size)
        for name, forms in by_parameter(found, directions):
            put(rows, name, forms)
        return rows

    total: Tensor | None = None
    for batch in batches(gathered):
        for some, name, forms in batch.whole():
            put(batch.gathered[some], name, forms)
        if total is None:
            total = batch.gathered.new_empty(samples, *batch.gathered.shape[1:])
        total[batch.ids] = batch.gathered
    assert total is not None  # no dataset is empty
    return total
