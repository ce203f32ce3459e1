"""The gradient norm that each sample would have with each label, from one Gram matrix of its outputs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from influence_core.curvature.outputs import output_gradient
from influence_core.data import LabelledDataset
from influence_core.gradients import output_grams
from influence_core.losses import Loss

MANY_LABELS = 50
"""From so many labels on, only the likeliest ones are looked at unless told otherwise."""

TOP_LABELS = 10


def label_norms(
    model: nn.Module,
    loss: Loss,
    data: LabelledDataset,
    weights: Mapping[str, Tensor],
    labels: int,
    top: int | None = None,
) -> Tensor:
    r"""``q_k = |gradient of the loss with label k|^2`` in a diagonal metric W, for every sample and label k.

    With the Gram matrix G of the outputs' gradients (``influence_core.gradients.output_grams``) and
    :math:`r_k = \partial\ell(f, k)/\partial f`, which is :math:`p - e_k` for cross-entropy,

    .. math:: q_k = r_k^\top G\, r_k .

    This is exact for any loss of the outputs. :math:`r_k` and the quadratic form are taken in float64: where the model
    is certain, :math:`p - e_k` loses its digits otherwise.

    With ``top``, the gradients of that many labels of lowest loss and of the given label are taken alone, which saves
    the other labels' backward passes. The others get as much more than the sample's largest q as that is above its
    smallest: no suggestion, no smallest q of a sample changes, and every number stays finite.

    Args:
        model: in eval mode, outputs [B, O].
        loss: one loss per sample.
        data: N samples.
        weights: parameter name -> W's entries.
        labels: K.
        top: labels to look at beside the given one, 0 for all; ``None`` for all below 50 labels, and else 10.

    Returns:
        float64 [N, K], not negative.
    """
    top = (TOP_LABELS if labels >= MANY_LABELS else 0) if top is None else top
    if not 0 < top < labels - 1:

        def reduce(outputs: Tensor, grams: Tensor, ids: Tensor) -> Tensor:
            every = torch.arange(labels, device=outputs.device).expand(len(outputs), -1)
            slopes = label_slopes(loss, outputs.double(), every)
            return torch.einsum("blo,bop,blp->bl", slopes, grams.double(), slopes).clamp_min(0.0)

        return output_grams(model, data, weights, reduce=reduce)

    def chosen(outputs: Tensor, ids: Tensor) -> Tensor:
        """The given label, then those of lowest loss, ``[B, top + 1]``."""
        every = torch.arange(labels, device=outputs.device).repeat(len(outputs))
        losses = loss(outputs.repeat_interleave(labels, dim=0), every).view(len(outputs), labels)
        given = data.labels[ids].to(outputs.device)[:, None]
        best = losses.detach().scatter(1, given, torch.inf).topk(top, largest=False).indices
        return torch.cat([given, best], dim=1)

    def some(outputs: Tensor, grams: Tensor, ids: Tensor) -> Tensor:
        found = torch.diagonal(grams, dim1=1, dim2=2).double().clamp_min(0.0)
        low, high = found.aminmax(dim=1, keepdim=True)
        return (2 * high - low).expand(-1, labels).scatter(1, chosen(outputs, ids), found)

    def directions(outputs: Tensor, ids: Tensor) -> Tensor:
        return label_slopes(loss, outputs.double(), chosen(outputs, ids))

    return output_grams(model, data, weights, directions=directions, reduce=some)


def label_slopes(loss: Loss, outputs: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the loss with respect to the outputs, for several labels of each sample.

    Args:
        loss: one loss per sample.
        outputs: [B, O].
        labels: [B, m].

    Returns:
        [B, m, O].
    """
    many = outputs.repeat_interleave(labels.shape[1], dim=0)
    return output_gradient(loss, many, labels.flatten()).view(*labels.shape, outputs.shape[1])
