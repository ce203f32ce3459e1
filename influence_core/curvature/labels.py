"""The gradients that each sample would have with each label: their losses, norms and inner products, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from influence_core.curvature.outputs import output_gradient
from influence_core.gradients import Labelled, output_grams
from influence_core.losses import Loss

MANY_LABELS = 50
"""From so many labels on, only the likeliest ones are looked at unless told otherwise."""

TOP_LABELS = 10

LabelScore = Callable[[Tensor, Tensor], Tensor]
"""``(losses [B, m], grams [B, m, m]) -> [B, m]``: a number for each label of each sample, float64."""


def label_scores(
    model: nn.Module,
    loss: Loss,
    data: Labelled,
    weights: Mapping[str, Tensor],
    labels: int,
    score: LabelScore,
    top: int | None = None,
) -> Tensor:
    r"""What becomes of the losses :math:`\ell_k` of each label, and of the inner products of their gradients.

    With the Gram matrix G of the outputs' gradients in a diagonal metric W (``influence_core.gradients.output_grams``)
    and :math:`r_k = \partial\ell(f, k)/\partial f`, which is :math:`p - e_k` for cross-entropy,

    .. math:: \nabla\ell_j^\top W\, \nabla\ell_k = r_j^\top G\, r_k .

    This is exact for any loss of the outputs. :math:`r_k` is taken in float64: where the model is certain,
    :math:`p - e_k` loses its digits otherwise.

    With ``top``, that many labels of lowest loss and the given label are looked at alone, which saves the other labels'
    backward passes. What ``score`` gives them is better the smaller it is; the others get as much more than the
    sample's largest as that is above its smallest. No suggestion changes then, and every number stays finite.

    Args:
        model: in eval mode, outputs [B, O].
        loss: one loss per sample.
        data: N samples with ``labels`` [N].
        weights: parameter name -> W's entries.
        labels: K.
        score: of the labels looked at.
        top: labels to look at beside the given one, 0 for all; ``None`` for all below 50 labels, and else 10.

    Returns:
        float64 [N, K].
    """
    top = (TOP_LABELS if labels >= MANY_LABELS else 0) if top is None else top

    def every(outputs: Tensor) -> Tensor:
        return torch.arange(labels, device=outputs.device).expand(len(outputs), -1)

    if not 0 < top < labels - 1:

        def all_of_them(outputs: Tensor, grams: Tensor, ids: Tensor) -> Tensor:
            outputs = outputs.double()
            slopes = label_slopes(loss, outputs, every(outputs))
            return score(_losses(loss, outputs, every(outputs)), slopes @ grams.double() @ slopes.transpose(1, 2))

        return output_grams(model, data, weights, reduce=all_of_them)

    def chosen(outputs: Tensor, ids: Tensor) -> Tensor:
        """The given label, then those of lowest loss, ``[B, top + 1]``."""
        losses = _losses(loss, outputs, every(outputs))
        given = data.labels[ids].to(outputs.device)[:, None]
        return torch.cat([given, losses.scatter(1, given, torch.inf).topk(top, largest=False).indices], dim=1)

    def directions(outputs: Tensor, ids: Tensor) -> Tensor:
        return label_slopes(loss, outputs.double(), chosen(outputs, ids))

    def some_of_them(outputs: Tensor, grams: Tensor, ids: Tensor) -> Tensor:
        picked = chosen(outputs, ids)
        found = score(_losses(loss, outputs.double(), picked), grams.double())
        low, high = found.aminmax(dim=1, keepdim=True)
        return (2 * high - low).expand(-1, labels).scatter(1, picked, found)

    return output_grams(model, data, weights, directions=directions, reduce=some_of_them)


def squared_norms_of_labels(losses: Tensor, grams: Tensor) -> Tensor:
    """``q_k = |gradient of the loss with label k|^2``, a ``LabelScore``."""
    return torch.diagonal(grams, dim1=1, dim2=2).clamp_min(0.0)


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


def _losses(loss: Loss, outputs: Tensor, labels: Tensor) -> Tensor:
    """Loss of several labels of each sample, ``[B, m]``."""
    many = outputs.detach().repeat_interleave(labels.shape[1], dim=0)
    return loss(many, labels.flatten()).detach().view(labels.shape)
