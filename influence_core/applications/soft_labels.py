"""Soft relabelling: what the model says of the labels that were not given, in place of a label that is taken for wrong.

A training set with such targets is a ``LabelledDataset`` no more, since its labels are no classes; ``ic.training.fit``
takes any dataset with a loss that fits, ``soft_cross_entropy`` here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from influence_core.errors import InvalidInput

SMALLEST = 1e-12


def soft_labels(probabilities: Tensor, given: Tensor) -> Tensor:
    r"""Targets without the given label (GEX, Kim et al. 2023, equation 16).

    With the K classes, the model's probabilities p and the given label y,

    .. math:: t_y = 0, \qquad t_k = \log_{p_k} (1 - p_y)^{1/(K-1)} = \frac{\log(1 - p_y)}{(K - 1) \log p_k},

    so that the cross-entropy of t with p is :math:`-\log(1 - p_y)`, and falls as the model drops the given label.

    Args:
        probabilities: of the trained model, [N, K].
        given: labels, int64 [N].

    Returns:
        float64 [N, K]; rows do not add up to 1.

    Raises:
        InvalidInput: if the shapes do not fit.
    """
    if probabilities.ndim != 2 or len(probabilities) != len(given) or probabilities.shape[1] < 2:
        raise InvalidInput(
            f"probabilities are {list(probabilities.shape)} for {len(given)} labels; a row for each, and two columns "
            "or more, are needed"
        )
    p = probabilities.double().clamp(SMALLEST, 1 - SMALLEST)
    rest = torch.log1p(-p.gather(1, given[:, None])) / (p.shape[1] - 1)
    return (rest / p.log()).scatter(1, given[:, None], 0.0)


def soft_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with a weight on each label.

    Args:
        outputs: logits [B, K].
        targets: weights [B, K]; one-hot rows give the ordinary cross-entropy.

    Returns:
        [B], in nats.
    """
    return -(targets * outputs.log_softmax(1)).sum(1)
